# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the stand-in for a controller knows: its kinds of objects, their fields, and what it refuses."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.awx.surveys import answer_errors, spec_error

ENCRYPTED = "$encrypted$"
_RRULE = re.compile(
    r"DTSTART(:\d{8}T\d{6}Z|;TZID=[\w/]+:\d{8}T\d{6}) RRULE:FREQ=(MINUTELY|HOURLY|DAILY|WEEKLY|MONTHLY);INTERVAL=\d+"
)
_NOTIFY = {f"notification_templates_{event}": "notification_templates" for event in ("started", "success", "error")}

Body = dict[str, Any]


class RefusedError(Exception):
    """A request that the controller answers with an error status."""

    def __init__(self, status: int, body: Body) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Kind:
    """One collection of the API.

    `fields`: with their defaults; what isn't there is ignored, as the controller does. `references`: fields that hold
    the id of another object, by collection. `associations`: sub-lists by collection.
    """

    type: str
    fields: Mapping[str, Any]
    needs: Collection[str] = ("name",)
    references: Mapping[str, str] = field(default_factory=dict)
    associations: Mapping[str, str] = field(default_factory=dict)
    nullable: Collection[str] = ()


_PROMPTS = {
    f"ask_{what}_on_launch": False
    for what in (
        *(
            "credential",
            "diff_mode",
            "execution_environment",
            "forks",
            "instance_groups",
            "inventory",
            "job_slice_count",
        ),
        *("job_type", "labels", "limit", "scm_branch", "skip_tags", "tags", "timeout", "variables", "verbosity"),
    )
}
_ORGANIZATION = {"organization": "organizations"}
_NODES = dict.fromkeys(("success_nodes", "failure_nodes", "always_nodes"), "workflow_job_template_nodes")
KINDS: dict[str, Kind] = {
    "organizations": Kind(
        "organization",
        {"name": "", "description": ""},
        associations=_NOTIFY | {"notification_templates_approvals": "notification_templates"},
    ),
    "labels": Kind("label", {"name": "", "organization": None}, ("name", "organization"), _ORGANIZATION),
    "credential_types": Kind(
        "credential_type",
        {"name": "", "description": "", "kind": "", "managed": False, "inputs": {}, "injectors": {}},
        ("name", "kind"),
    ),
    "credentials": Kind(
        "credential",
        {"name": "", "description": "", "organization": None, "credential_type": None, "inputs": {}},
        ("name", "credential_type"),
        _ORGANIZATION | {"credential_type": "credential_types"},
    ),
    "execution_environments": Kind(
        "execution_environment",
        {"name": "", "description": "", "organization": None, "image": "", "pull": ""},
        ("name", "image"),
        _ORGANIZATION,
    ),
    "projects": Kind(
        "project",
        {"name": "", "description": "", "organization": None, "scm_type": "", "scm_url": "", "scm_branch": ""}
        | {"scm_clean": False, "scm_update_on_launch": False, "scm_update_cache_timeout": 0, "credential": None}
        | {"scm_revision": "0" * 40},
        references=_ORGANIZATION | {"credential": "credentials"},
    ),
    "inventories": Kind(
        "inventory",
        {"name": "", "description": "", "organization": None, "kind": "", "host_filter": None},
        ("name", "organization"),
        _ORGANIZATION,
        nullable=("host_filter",),
    ),
    "inventory_sources": Kind(
        "inventory_source",
        {"name": "", "description": "", "inventory": None, "source": "", "source_project": None, "source_path": ""}
        | {"execution_environment": None, "overwrite": False, "overwrite_vars": False, "update_on_launch": False},
        ("name", "inventory", "source"),
        {"inventory": "inventories", "source_project": "projects", "execution_environment": "execution_environments"},
    ),
    "notification_templates": Kind(
        "notification_template",
        {
            "name": "",
            "description": "",
            "organization": None,
            "notification_type": "",
            "notification_configuration": {},
        },
        ("name", "organization", "notification_type"),
        _ORGANIZATION,
    ),
    "job_templates": Kind(
        "job_template",
        {"name": "", "description": "", "organization": None, "project": None, "inventory": None, "playbook": ""}
        | {"execution_environment": None, "job_type": "run", "job_tags": "", "verbosity": 0, "extra_vars": "---"}
        | {"diff_mode": False, "allow_simultaneous": False, "survey_enabled": False}
        | _PROMPTS,
        ("name", "project", "playbook"),
        _ORGANIZATION
        | {"project": "projects", "inventory": "inventories", "execution_environment": "execution_environments"},
        _NOTIFY | {"credentials": "credentials", "labels": "labels"},
    ),
    "workflow_job_templates": Kind(
        "workflow_job_template",
        {"name": "", "description": "", "organization": None, "survey_enabled": False, "allow_simultaneous": False}
        | _PROMPTS,
        references=_ORGANIZATION,
        associations=_NOTIFY | {"labels": "labels", "notification_templates_approvals": "notification_templates"},
    ),
    "workflow_job_template_nodes": Kind(
        "workflow_job_template_node",
        {"identifier": "", "workflow_job_template": None, "unified_job_template": None, "extra_data": {}},
        ("identifier", "workflow_job_template"),
        {"workflow_job_template": "workflow_job_templates", "unified_job_template": "unified_job_templates"},
        _NODES,
    ),
    "workflow_approval_templates": Kind("workflow_approval_template", {"name": "", "description": "", "timeout": 0}),
    "schedules": Kind(
        "schedule",
        {"name": "", "description": "", "rrule": "", "unified_job_template": None, "enabled": True, "extra_data": {}},
        ("name", "rrule", "unified_job_template"),
        {"unified_job_template": "unified_job_templates"},
    ),
}
#: What a schedule or a workflow's node can start; one row of ids for all.
UNIFIED = ("job_templates", "workflow_job_templates", "projects", "inventory_sources", "workflow_approval_templates")


class Store:
    """The objects of a controller, with the rules for creating and changing them."""

    def __init__(self, playbooks: Collection[str]) -> None:
        self.playbooks = playbooks
        self.objects: dict[str, dict[int, Body]] = {name: {} for name in KINDS}
        self.associated: dict[tuple[str, int, str], list[int]] = {}
        self.surveys: dict[tuple[str, int], Body] = {}
        self.last_id = 0
        # The only thing a fresh controller brings that is looked up by name here.
        self.create("credential_types", {"name": "Machine", "kind": "ssh"})

    def find(self, collection: str, filters: Mapping[str, str]) -> list[Body]:
        """Return the objects whose fields have these values, as the API shows them. Related fields go with `__`."""
        found = [
            self.show(name, number)
            for name in (UNIFIED if collection == "unified_job_templates" else (collection,))
            for number in self.objects[name]
        ]
        return [each for each in found if all(self._matches(collection, each, *item) for item in filters.items())]

    def _matches(self, collection: str, shown: Body, name: str, value: str) -> bool:
        own, _, remote = name.partition("__")
        if own not in shown and collection != "unified_job_templates":
            raise RefusedError(400, {"detail": f"{collection} has no field named '{own}'"})
        if remote:
            reference = KINDS[collection].references[own]
            return shown[own] is not None and str(self.objects[reference][shown[own]][remote]) == value
        return str(shown.get(own)) == value

    def show(self, collection: str, number: int) -> Body:
        """Return one object as the API shows it: secrets hidden, with its links."""
        url = f"/api/v2/{collection}/{number}/"
        shown = copy.deepcopy(self.objects[collection][number])
        if shown.get("notification_configuration", {}).get("password"):
            shown["notification_configuration"]["password"] = ENCRYPTED
        related = {"survey_spec": f"{url}survey_spec/"} if "survey_enabled" in shown else {}
        if collection == "workflow_job_template_nodes" and shown["unified_job_template"]:
            target = shown["unified_job_template"]
            related["unified_job_template"] = f"/api/v2/{self._collection_of(target)}/{target}/"
        return shown | {
            "id": number,
            "type": KINDS[collection].type,
            "url": url,
            "related": related,
            "summary_fields": {},
        }

    def _collection_of(self, number: int) -> str:
        return next(name for name in UNIFIED if number in self.objects[name])

    def create(self, collection: str, body: Body) -> Body:
        """Create an object and return it as shown."""
        kind = KINDS[collection]
        missing = {name: ["This field is required."] for name in kind.needs if body.get(name) in (None, "")}
        if missing:
            raise RefusedError(400, missing)
        self.last_id += 1
        self._store(collection, self.last_id, copy.deepcopy(dict(kind.fields)), body)
        shown = self.show(collection, self.last_id)
        if collection == "projects":
            shown["summary_fields"] = {"current_update": {"id": self.last_id}}
        return shown

    def change(self, collection: str, number: int, body: Body) -> Body:
        """Change an object and return it as shown."""
        self._store(collection, number, self.objects[collection][number], body)
        return self.show(collection, number)

    def _store(self, collection: str, number: int, before: Body, body: Body) -> None:
        kind = KINDS[collection]
        new = before | copy.deepcopy({name: value for name, value in body.items() if name in kind.fields})
        for name, value in new.items():
            if value is None and name not in kind.references and name not in kind.nullable:
                raise RefusedError(400, {name: ["This field may not be null."]})
            if value is not None and name in kind.references:
                self._must_exist(kind.references[name], value, name)
        password = new.get("notification_configuration", {}).get("password")
        if password == ENCRYPTED:
            new["notification_configuration"]["password"] = before["notification_configuration"]["password"]
        twins = [
            other
            for other, there in self.objects[collection].items()
            if other != number and _identity(collection, there) == _identity(collection, new)
        ]
        if twins:
            raise RefusedError(400, {"__all__": [f"{collection} with this name already exists."]})
        if rule := RULES.get(collection):
            rule(self, new)
        self.objects[collection][number] = new

    def _must_exist(self, collection: str, number: int, name: str) -> None:
        if not any(
            number in self.objects[each] for each in (UNIFIED if collection.startswith("unified") else (collection,))
        ):
            raise RefusedError(400, {name: [f'Invalid pk "{number}" - object does not exist.']})

    def associates(self, collection: str, number: int, name: str) -> list[Body]:
        """Return a sub-list as shown."""
        return [self.show(KINDS[collection].associations[name], each) for each in self._list(collection, number, name)]

    def _list(self, collection: str, number: int, name: str) -> list[int]:
        if name not in KINDS[collection].associations or number not in self.objects[collection]:
            raise RefusedError(404, {"detail": "Not found."})
        return self.associated.setdefault((collection, number, name), [])

    def associate(self, collection: str, number: int, name: str, body: Body) -> None:
        """Put an object into a sub-list, or take it out."""
        members = self._list(collection, number, name)
        if body.get("disassociate"):
            members.remove(body["id"])
            return
        self._must_exist(KINDS[collection].associations[name], body["id"], "id")
        if name in _NODES and self._reaches(body["id"], number):
            raise RefusedError(400, {"detail": "Cycle detected."})
        members.append(body["id"])

    def _reaches(self, start: int, end: int) -> bool:
        following = [each for name in _NODES for each in self._list("workflow_job_template_nodes", start, name)]
        return start == end or any(self._reaches(each, end) for each in following)

    def approval(self, number: int, body: Body) -> Body:
        """Make the approval that a workflow's node waits for."""
        shown = self.create("workflow_approval_templates", body)
        self.objects["workflow_job_template_nodes"][number]["unified_job_template"] = shown["id"]
        return shown

    def set_survey(self, collection: str, number: int, spec: Body) -> None:
        """Store a survey."""
        error = spec_error(spec)
        if error:
            raise RefusedError(400, {"error": error})
        self.surveys[collection, number] = spec

    def get_survey(self, collection: str, number: int) -> Body:
        """Return a survey; empty where there is none."""
        return self.surveys.get((collection, number), {})


def _identity(collection: str, body: Body) -> tuple[Any, ...]:
    scopes = ("organization", "inventory", "workflow_job_template", "credential_type", "unified_job_template")
    own = body["identifier"] if collection == "workflow_job_template_nodes" else body["name"]
    scope = scopes[:-1] if collection == "workflow_job_template_nodes" else scopes
    # An approval belongs to its node and may have any name.
    return (id(body),) if collection == "workflow_approval_templates" else (own, *(body.get(name) for name in scope))


def _job_template(store: Store, new: Body) -> None:
    if new["playbook"] not in store.playbooks:
        raise RefusedError(400, {"playbook": ["Playbook not found for project."]})
    if new["extra_vars"] != "---" and not isinstance(json.loads(new["extra_vars"]), dict):
        raise RefusedError(400, {"extra_vars": ["Must be valid JSON or YAML."]})


def _schedule(store: Store, new: Body) -> None:
    if not _RRULE.fullmatch(new["rrule"]):
        raise RefusedError(400, {"rrule": [f"not a rule that a controller takes: {new['rrule']}"]})
    survey = store.surveys.get(("job_templates", new["unified_job_template"]), {})
    errors = answer_errors(survey, new["extra_data"])
    if errors:
        raise RefusedError(400, {"variables_needed_to_start": errors})


_CONFIGURATION = {
    "webhook": {"url", "http_method", "headers", "disable_ssl_verification", "username", "password"},
    "email": {"host", "port", "username", "password", "use_tls", "use_ssl", "sender", "recipients", "timeout"},
}


def _notification(_: Store, new: Body) -> None:
    missing = _CONFIGURATION[new["notification_type"]] - new["notification_configuration"].keys()
    if missing:
        raise RefusedError(400, {"notification_configuration": [f"Missing required fields: {sorted(missing)}"]})


RULES: dict[str, Callable[[Store, Body], None]] = {
    "job_templates": _job_template,
    "schedules": _schedule,
    "notification_templates": _notification,
}
