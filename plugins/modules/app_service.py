#!/usr/bin/python
# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring one Docker Swarm service with its configs and secrets to what is wanted, and wait until it runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_service
short_description: One Docker Swarm service with its configs and secrets, brought to what is wanted in one step
version_added: 0.1.0
description:
  - Makes configs and secrets whose names carry a hash of their content, points the service at them, waits until it runs
    that way, and only then removes those it used before.
  - The service is owned whole. What O(spec) doesn't say is the engine's default after a write.
  - Where an update fails, the service's own C(UpdateConfig) decides; with V(rollback) the version of before is put
    back, and the module fails with the reason.
options:
  name:
    description: Name of the service.
    type: str
    required: true
  state:
    description: With V(absent) the service is removed, and what was made for it. Its volumes stay.
    type: str
    choices: [present, absent]
    default: present
  spec:
    description:
      - Required with O(state=present).
      - The service's spec in the words of the engine's API, without C(Name), C(Configs) and C(Secrets). It must be
        C(Replicated).
    type: dict
  networks:
    description: Names of the networks to join.
    type: list
    elements: str
    default: []
  configs:
    description: Files that hold no secret.
    type: list
    elements: dict
    default: []
    suboptions: &file
      name:
        description: What it is, for its name among the Swarm's objects.
        type: str
        required: true
      target:
        description: The file in the container. A secret without a slash lies in C(/run/secrets).
        type: str
        required: true
      content:
        description: What is in it.
        type: str
        required: true
  secrets:
    description:
      - Files that hold a secret. Their names carry 40 bits of a slow, salted hash (scrypt). So a change is seen, and a
        password is no sooner guessed from the name than from a file of hashed passwords.
    type: list
    elements: dict
    default: []
    suboptions: *file
  owner:
    description: Number of the user and group who may read these files.
    type: str
    default: "0"
  timeout:
    description: Seconds to wait until the service runs as wanted.
    type: float
    default: 180
attributes:
  check_mode:
    support: full
    description: Says whether the service, a config or a secret would change, with the differences.
  diff_mode:
    support: full
    description: The spec before and after, with the contents of configs. Of secrets only their names.
  idempotent:
    support: full
    description: What is as wanted is not written.
extends_documentation_fragment:
  - evenkeel.swarm.swarm
notes:
  - Runs on a Swarm manager.
"""

EXAMPLES = r"""
- name: A small service
  evenkeel.swarm.app_service:
    name: hello
    spec:
      TaskTemplate:
        ContainerSpec:
          Image: registry.example.org/hello:1.0
          ReadOnly: true
      Mode: {Replicated: {Replicas: 1}}
      UpdateConfig: {Parallelism: 1, Order: stop-first, FailureAction: rollback}
    configs:
      - {name: config, target: /etc/hello.yml, content: "{{ hello | to_nice_yaml }}"}
    secrets:
      - {name: token, target: token, content: "{{ vault_hello_token }}"}
"""

RETURN = r"""
created:
  description: Names of the configs and secrets that were made.
  returned: success
  type: list
  elements: str
removed:
  description: Names of those that nothing uses any more and that were removed.
  returned: success
  type: list
  elements: str
service:
  description: What became of the service, V(created), V(updated), V(removed) or V(unchanged).
  returned: success
  type: str
"""

import base64
import json
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.evenkeel.swarm.plugins.module_utils._app_service import (
    File,
    config_file,
    holds,
    judge,
    leftovers,
    object_body,
    secret_file,
    shown,
    wanted_spec,
    with_ids,
)
from ansible_collections.evenkeel.swarm.plugins.module_utils._swarm import (
    Swarm,
    SwarmError,
    fail,
    open_swarm,
    swarm_argument_spec,
)

_PAUSE = 0.5
#: So long must the tasks of a new service have run.
_NEW_SECONDS = 3.0


def define_module() -> AnsibleModule:
    """Build the module with its options."""
    file = {
        "name": {"type": "str", "required": True},
        "target": {"type": "str", "required": True},
        "content": {"type": "str", "required": True},
    }
    secret = {**file, "content": {**file["content"], "no_log": True}}
    return AnsibleModule(
        argument_spec={
            **swarm_argument_spec(),
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "spec": {"type": "dict"},
            "networks": {"type": "list", "elements": "str", "default": []},
            "configs": {"type": "list", "elements": "dict", "default": [], "options": file},
            "secrets": {"type": "list", "elements": "dict", "default": [], "options": secret, "no_log": False},
            "owner": {"type": "str", "default": "0"},
            "timeout": {"type": "float", "default": 180},
        },
        required_if=[("state", "present", ["spec"])],
        supports_check_mode=True,
    )


class AppService:
    """The service and its files, as they are and as they shall be."""

    def __init__(self, swarm: Swarm, params: dict[str, Any]) -> None:
        self.swarm = swarm
        self.name: str = params["name"]
        self.timeout: float = params["timeout"]
        self.files = self._files(params)
        spec = self._in_networks(params["spec"], params["networks"])
        self.wanted = wanted_spec(self.name, spec, self.files, params["owner"])
        self.configs: list[Any] = swarm.request("GET", "/configs") or []
        self.secrets: list[Any] = swarm.request("GET", "/secrets") or []
        self.service = self._find()
        self.missing = self._missing()
        self.stale = self._stale()

    @property
    def is_current(self) -> bool:
        """Whether the service needs no write."""
        return self.service is not None and holds(self.wanted, self.service["Spec"])

    @property
    def outcome(self) -> dict[str, Any]:
        """What a run does, which a check run only says."""
        state = "unchanged" if self.is_current else "updated" if self.service else "created"
        created, removed = [file.name for file in self.missing], [item["Spec"]["Name"] for _, item in self.stale]
        changed = state != "unchanged" or bool(created or removed)
        return {"changed": changed, "service": state, "created": created, "removed": removed, "diff": self._diff()}

    def bring(self) -> None:
        """Make what is missing, write the spec, wait, remove what is left over. Raises SwarmError."""
        ids = {item["Spec"]["Name"]: item["ID"] for item in (*self.configs, *self.secrets)}
        for file in self.missing:
            path = f"/{file.kind.lower()}s/create"
            ids[file.name] = self.swarm.request("POST", path, object_body(file, self.name))["ID"]
        status = (self.service or {}).get("UpdateStatus") or {}
        # Of an update that still goes on towards what is wanted, the status is an answer.
        under_way = self.is_current and status.get("State") in ("updating", "rollback_started")
        if not self.is_current:
            self._write(with_ids(self.wanted, ids))
        self._wait(None if under_way else status.get("StartedAt"))
        for kind, item in self.stale:
            self.swarm.request("DELETE", f"/{kind}s/{item['ID']}")

    def _files(self, params: dict[str, Any]) -> list[File]:
        secrets = params["secrets"]
        swarm_id = self.swarm.request("GET", "/swarm")["ID"] if secrets else ""
        try:
            return [config_file(self.name, **each) for each in params["configs"]] + [
                secret_file(self.name, **each, swarm_id=swarm_id) for each in secrets
            ]
        except ValueError as error:
            raise SwarmError("name_too_long", str(error)) from error

    def _in_networks(self, spec: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """Return the spec with its networks, by id: the engine keeps them so, and only then they can be compared."""
        if not names:
            return spec
        ids = {each["Name"]: each["Id"] for each in self.swarm.request("GET", "/networks") or []}
        unknown = [name for name in names if name not in ids]
        if unknown:
            raise SwarmError("no_network", f"the Swarm has no network {', '.join(unknown)}: make it first")
        networks = [{"Target": ids[name]} for name in names]
        return {**spec, "TaskTemplate": {**spec["TaskTemplate"], "Networks": networks}}

    def _find(self) -> Any:
        return next((each for each in self.swarm.services() if each["Spec"]["Name"] == self.name), None)

    def _missing(self) -> list[File]:
        there = {item["Spec"]["Name"] for item in (*self.configs, *self.secrets)}
        return [file for file in self.files if file.name not in there]

    def _stale(self) -> list[tuple[str, Any]]:
        used = [file.name for file in self.files]
        return [("config", item) for item in leftovers(self.configs, self.name, used)] + [
            ("secret", item) for item in leftovers(self.secrets, self.name, used)
        ]

    def _diff(self) -> dict[str, str]:
        contents = {item["Spec"]["Name"]: item["Spec"].get("Data") or "" for item in self.configs}
        before = {name: base64.b64decode(data).decode(errors="replace") for name, data in contents.items()}
        after = {file.name: file.content for file in self.files if file.kind == "Config"}
        old = shown(self.service["Spec"], self.wanted, before) if self.service else {}
        for reference in old.get("TaskTemplate", {}).get("ContainerSpec", {}).get("Configs", []):
            reference.pop("ConfigID", None)
        return {"before": _text(old), "after": _text(shown(self.wanted, self.wanted, after))}

    def _write(self, spec: Any) -> None:
        if self.service is None:
            self.swarm.request("POST", "/services/create", spec)
        else:
            self.swarm.update_service(self.service["ID"], lambda _: spec)

    def _wait(self, stale_status: str | None) -> None:
        deadline = time.monotonic() + self.timeout
        runs_since: float | None = None
        while True:
            service = self._find()
            if service is None:
                raise SwarmError("service_removed", f"{self.name} was removed while it was waited for")
            tasks = [task for task in self.swarm.tasks() if task["ServiceID"] == service["ID"]]
            verdict = judge(service, tasks, stale_status)
            runs_since = (runs_since or time.monotonic()) if verdict.state == "converged" else None
            # Swarm watches the tasks of an update for a while, but not those of a new service.
            if runs_since and (self.service or time.monotonic() - runs_since >= _NEW_SECONDS):
                return
            if verdict.state == "failed":
                raise SwarmError("not_converged", f"{self.name} doesn't run as wanted. {verdict.message}")
            if time.monotonic() > deadline:
                text = f"{self.name} doesn't run as wanted after {self.timeout:g} s: {verdict.message}"
                raise SwarmError("timeout", text)
            time.sleep(_PAUSE)


def _remove(swarm: Swarm, name: str, *, check: bool) -> dict[str, Any]:
    """Remove the service and what was made for it; returns what a run does."""
    services = [each for each in swarm.services() if each["Spec"]["Name"] == name]
    stale = [
        (kind, item)
        for kind in ("config", "secret")
        for item in leftovers(swarm.request("GET", f"/{kind}s") or [], name, [])
    ]
    if not check:
        for path in [f"/services/{each['ID']}" for each in services] + [
            f"/{kind}s/{item['ID']}" for kind, item in stale
        ]:
            swarm.request("DELETE", path)
    names = [item["Spec"]["Name"] for _, item in stale]
    state = "removed" if services else "unchanged"
    diff = {"before": _text({"service": name, "files": names}) if services or stale else "", "after": ""}
    return {"changed": bool(services or stale), "service": state, "created": [], "removed": names, "diff": diff}


def _text(value: Any) -> str:
    # A file's lines as lines: a change in it shall be seen where it is. The host may have no YAML.
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).replace("\\n", "\n") if value else ""


def main() -> None:
    """Run the module."""
    module = define_module()
    try:
        if module.params["state"] == "absent":
            module.exit_json(**_remove(open_swarm(module), module.params["name"], check=module.check_mode))
        app = AppService(open_swarm(module), module.params)
        outcome = app.outcome
        if not module.check_mode:
            app.bring()
        module.exit_json(**outcome)
    except SwarmError as error:
        fail(module, error)


if __name__ == "__main__":
    main()
