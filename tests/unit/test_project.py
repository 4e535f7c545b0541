# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the project's files promise each other: defaults and specs, READMEs, documentation, inventories."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
LOOKUPS = sorted(path.stem for path in (ROOT / "plugins" / "lookup").glob("*.py"))
FILTERS = sorted(path.stem for path in (ROOT / "plugins" / "filter").glob("*.py"))
PLAYBOOKS = ["site.yml", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "playbooks").glob("*.yml")))]
#: Those that work on Swarm hosts; awx.yml talks to a controller.
ON_HOSTS = [playbook for playbook in PLAYBOOKS if playbook != "playbooks/awx.yml"]
NO_LAB = "No lab is up: run `make lab-up` (or name another inventory with -i)."


def load(*parts: str) -> Any:
    return yaml.safe_load((ROOT.joinpath(*parts)).read_text())


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's commands in the project, away from the user's own settings."""
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def production() -> dict[str, Any]:
    """The production inventory as Ansible reads it; nothing is connected to."""
    listing = run("ansible-inventory", "-i", "inventory/production", "--list")
    assert listing.returncode == 0, listing.stderr
    inventory: dict[str, Any] = json.loads(listing.stdout)
    return inventory


# --- roles ---


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_say_the_same(role: str) -> None:
    defaults = load("roles", role, "defaults", "main.yml")
    specs = load("roles", role, "meta", "argument_specs.yml")["argument_specs"]
    for entry_point, spec in specs.items():
        documented = {name: option["default"] for name, option in spec["options"].items() if "default" in option}
        assert documented == {name: value for name, value in defaults.items() if name in documented}, entry_point
    assert set(defaults) == {name for name, option in specs["main"]["options"].items() if "default" in option}


@pytest.mark.parametrize("role", ROLES)
def test_variables_follow_the_grammar(role: str) -> None:
    assert all(name.startswith(f"{role}_") for name in load("roles", role, "defaults", "main.yml"))
    assert all(name.startswith(f"_{role}_") for name in load("roles", role, "vars", "main.yml"))
    for path in (ROOT / "roles" / role / "tasks").glob("*.yml"):
        registered = [line.split()[1] for line in path.read_text().splitlines() if line.strip().startswith("register:")]
        assert all(name.startswith(f"__{role}_") for name in registered), path


@pytest.mark.parametrize("role", ROLES)
def test_readme_holds_the_table_of_variables(role: str) -> None:
    spec = importlib.util.spec_from_file_location("role_readme", ROOT / "tools" / "role_readme.py")
    assert spec and spec.loader
    role_readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(role_readme)
    readme = (ROOT / "roles" / role / "README.md").read_text()
    assert role_readme.updated(readme, load("roles", role, "meta", "argument_specs.yml")) == readme, (
        "run tools/role_readme.py"
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"service": "a", "limit": {"cpus": 1}}, "limit"),
        ({"service": "a", "limits": {"cpu": 1}}, "cpu"),
        ({"service": "a", "replicas": "some"}, "replicas"),
    ],
)
def test_typos_in_a_row_are_rejected_before_any_task(row: dict[str, Any], problem: str) -> None:
    variables = {"service_limits_table": [row]}
    ran = run(
        *("ansible", "localhost", "-i", "localhost,", "-c", "local", "-m", "ansible.builtin.include_role"),
        *("-a", "name=evenkeel.swarm.service_limits", "-e", json.dumps(variables)),
    )
    assert ran.returncode != 0
    assert "Validation of arguments failed" in ran.stdout + ran.stderr
    assert problem in ran.stdout + ran.stderr


# --- modules and filters ---


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """Each module's documentation as ansible-doc reads it, fragments included."""
    names = [f"evenkeel.swarm.{name}" for name in MODULES]
    shown = run("ansible-doc", "--json", "--type", "module", *names)
    assert shown.returncode == 0, shown.stderr
    return {name.rpartition(".")[2]: entry["doc"] for name, entry in json.loads(shown.stdout).items()}


@pytest.mark.parametrize("module", MODULES)
def test_a_modules_options_are_those_it_documents(
    module: str, documented: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    code = importlib.import_module(f"ansible_collections.evenkeel.swarm.plugins.modules.{module}")
    monkeypatch.setattr(code, "AnsibleModule", lambda **options: seen.update(options))
    code.define_module()
    keys = {"type": "str", "default": None, "choices": None, "elements": None, "required": False}

    def comparable(options: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {key: option.get(key, absent) for key, absent in keys.items()} for name, option in options.items()
        }

    assert comparable(documented[module]["options"]) == comparable(seen["argument_spec"])
    assert seen["supports_check_mode"] is True
    assert {"check_mode", "diff_mode", "idempotent"} <= set(documented[module]["attributes"])


def test_action_group_names_every_module() -> None:
    assert sorted(load("meta", "runtime.yml")["action_groups"]["swarm"]) == MODULES


@pytest.mark.parametrize(("kind", "names"), [("module", MODULES), ("filter", FILTERS), ("lookup", LOOKUPS)])
def test_every_plugin_is_documented(kind: str, names: list[str]) -> None:
    shown = run("ansible-doc", "-t", kind, "--json", *(f"evenkeel.swarm.{name}" for name in names))
    assert shown.returncode == 0, shown.stderr
    documented = json.loads(shown.stdout)
    assert sorted(documented) == sorted(f"evenkeel.swarm.{name}" for name in names)
    for name, parts in documented.items():
        assert parts["doc"]["short_description"], name
        assert parts["examples"].strip(), name
        assert parts["return"], name


# --- playbooks and inventories ---


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_playbooks_parse_with_the_production_inventory(playbook: str) -> None:
    checked = run("ansible-playbook", "-i", "inventory/production", "--syntax-check", playbook)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("playbook", ON_HOSTS)
def test_without_a_lab_a_playbook_says_in_one_sentence_what_to_do(playbook: str) -> None:
    ran = run("ansible-playbook", playbook, LAB_NAME="no-such-lab")
    assert ran.returncode != 0
    assert NO_LAB in ran.stdout + ran.stderr


@pytest.mark.parametrize("playbook", ON_HOSTS)
def test_an_inventory_without_swarm_hosts_is_a_failure(playbook: str) -> None:
    ran = run("ansible-playbook", "-i", "localhost,", playbook)
    assert ran.returncode != 0
    assert NO_LAB in ran.stdout + ran.stderr


def test_a_lab_that_does_not_answer_is_no_lab(tmp_path: Path) -> None:
    (tmp_path / "ssh_config").write_text("Host *\n  HostName 127.0.0.1\n  Port 1\n")
    inventory = tmp_path / "hosts.yml"
    variables = {"lab_directory": str(tmp_path), "ansible_ssh_common_args": f"-F {tmp_path}/ssh_config"}
    hosts: dict[str, dict[str, dict[str, object]]] = {
        "swarm_manager": {"hosts": {"kvm4": {}}},
        "swarm_worker": {"hosts": {"kvm2": {}}},
    }
    inventory.write_text(yaml.safe_dump({"swarm": {"children": hosts, "vars": variables}}))
    ran = run("ansible-playbook", "-i", str(inventory), "site.yml")
    assert ran.returncode != 0
    assert (ran.stdout + ran.stderr).count("unreachable=1") == 0
    assert NO_LAB in ran.stdout + ran.stderr


def test_the_lab_is_the_only_default_and_production_is_named_in_its_inventory_only() -> None:
    assert "inventory = inventory/lab" in (ROOT / "ansible.cfg").read_text()
    tracked = run("git", "ls-files", "-z").stdout.split("\0")
    texts = [ROOT / name for name in tracked if name and (ROOT / name).is_file()]
    naming = [path for path in texts if b"72.60." + b"219.244" in path.read_bytes()]
    assert [path.relative_to(ROOT).as_posix() for path in naming] == ["inventory/production/hosts.yml"]


def test_production_parses_with_its_sizes_and_its_table(production: dict[str, Any]) -> None:
    assert production["swarm"]["children"] == ["swarm_manager", "swarm_worker"]
    hosts = production["_meta"]["hostvars"]
    assert {name: values["swarm_node_vcpus"] for name, values in hosts.items()} == {"kvm4": 4, "kvm2": 2}
    assert hosts["kvm4"]["service_limits_table"] == hosts["kvm2"]["service_limits_table"]


def test_production_renders_without_a_vault(tmp_path: Path) -> None:
    playbook = tmp_path / "render.yml"
    show = {"ansible.builtin.debug": {"msg": "password={{ hostvars.kvm4.ansible_become_password }}="}}
    playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": [show]}]))
    rendered = run("ansible-playbook", "-i", "inventory/production", str(playbook))
    assert rendered.returncode == 0, rendered.stdout
    assert "password==" in rendered.stdout


def test_lab_and_production_share_one_table() -> None:
    tables = [ROOT / "inventory" / name / "group_vars" / "swarm" / "limits.yml" for name in ("lab", "production")]
    assert {path.resolve() for path in tables} == {ROOT / "inventory" / "estate" / "limits.yml"}
