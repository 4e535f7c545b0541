# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment: ansible-builder accepts it, and it holds what a controller needs and nothing else."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import collection
from tests.collection import BIN, ROOT

#: Everything goes to a port where nobody listens, should it try.
OFFLINE = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "HTTP", "HTTPS")}
#: Code that runs on the controller; modules run on the hosts.
OF_THE_CONTROLLER = ("action", "filter", "lookup", "plugin_utils")
#: Debian's and Fedora's packages with a command that isn't in every image.
PACKAGES = {"ssh": {"openssh-client", "openssh-clients"}}
IN_EVERY_IMAGE = {"dd"}


def definition() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
    return loaded


def builder(*arguments: str, project: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "ansible-builder"), *arguments]
    environment = os.environ | OFFLINE | {"NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the archive where `make ee` puts it."""
    project = tmp_path_factory.mktemp("project")
    collection.copy_project(project)
    (project / ".cache" / "ee").mkdir(parents=True)
    collection.build(project, project / ".cache" / "ee")
    return project


def test_the_builder_makes_a_context_without_a_network(project: Path) -> None:
    made = builder("create", "--context", "context", "--output-filename", "Containerfile", project=project)
    assert made.returncode == 0, made.stdout + made.stderr
    needs = definition()["dependencies"]
    inside = project / "context" / "_build"
    assert yaml.safe_load((inside / "requirements.yml").read_text()) == needs["galaxy"]
    [wanted] = needs["galaxy"]["collections"]
    assert (inside / wanted["name"]).is_file()
    containerfile = (project / "context" / "Containerfile").read_text()
    assert f'"{needs["ansible_core"]["package_pip"]} {needs["ansible_runner"]["package_pip"]}"' in containerfile
    assert not (inside / "bindep.txt").exists()
    assert not (inside / "requirements.txt").exists()


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [(("images", "base"), {"name": "a"}, "base"), (("dependencies", "galaxy"), 1, "galaxy"), (("version",), 9, "9")],
)
def test_the_builder_would_refuse_a_mistake(project: Path, place: tuple[str, ...], value: Any, said: str) -> None:
    broken = definition()
    target = broken
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    (project / "broken.yml").write_text(yaml.safe_dump(broken))
    made = builder("create", "--file", "broken.yml", "--context", "broken", project=project)
    assert made.returncode != 0
    assert said in made.stdout + made.stderr


def test_it_takes_the_archive_of_this_version() -> None:
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    archive = f"evenkeel-swarm-{version}.tar.gz"
    [file] = definition()["additional_build_files"]
    [wanted] = definition()["dependencies"]["galaxy"]["collections"]
    assert (file["src"], f"{file['dest']}/{archive}") == (f".cache/ee/{archive}", wanted["name"])


def test_it_has_the_ansible_that_the_tests_use() -> None:
    locked = (ROOT / "requirements" / "dev.in").read_text().splitlines()
    assert definition()["dependencies"]["ansible_core"]["package_pip"] in locked


def test_the_builder_finds_the_lists_in_the_installed_archive(project: Path, tmp_path: Path) -> None:
    [archive] = (project / ".cache" / "ee").glob("*.tar.gz")
    collection.install(archive, tmp_path / "installed")
    found = builder("introspect", str(tmp_path / "installed"), project=tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    lists = yaml.safe_load(found.stdout[found.stdout.index("---") :])
    for kind, listed in (("python", python_list()), ("system", system_list())):
        assert lists[kind] == [f"{line}  # from collection evenkeel.swarm" for line in listed]


def test_the_python_list_is_what_the_controllers_code_imports() -> None:
    of_import = metadata.packages_distributions()
    imported = {of_import[name][0].lower() for name in third_party()}
    assert imported - collection.brought_along("ansible-core") == set(python_list())


def test_the_system_list_is_what_the_controllers_tasks_call() -> None:
    called = {argv[0] for argv in called_on_the_controller() if argv[0] != "{{ ansible_playbook_python }}"}
    assert called <= PACKAGES.keys() | IN_EVERY_IMAGE, (
        "name the package of a new command here and in meta/ee-bindep.txt"
    )
    # The connection to the hosts is ssh's, whatever tasks call.
    needed = set().union(*(PACKAGES[name] for name in (called | {"ssh"}) - IN_EVERY_IMAGE))
    assert {line.split()[0] for line in system_list()} == needed


def python_list() -> list[str]:
    return entries("ee-requirements.txt")


def system_list() -> list[str]:
    return entries("ee-bindep.txt")


def entries(name: str) -> list[str]:
    lines = (ROOT / "meta" / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def third_party() -> set[str]:
    """Top-level names that code of the controller imports, in itself and through module_utils."""
    found: set[str] = set()
    waiting = [path for kind in OF_THE_CONTROLLER for path in (ROOT / "plugins" / kind).rglob("*.py")]
    seen = set(waiting)
    while waiting:
        for name in imports(waiting.pop()):
            top = name.partition(".")[0]
            if top == "ansible_collections":
                path = ROOT.joinpath(*name.split(".")[3:]).with_suffix(".py")
                if path.is_file() and path not in seen:
                    seen.add(path)
                    waiting.append(path)
            elif top not in sys.stdlib_module_names and top != "ansible":
                found.add(top)
    return found


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            # "from package import module" too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called_on_the_controller() -> list[list[str]]:
    """The argv of every command that a task runs on the controller."""
    paths = [*(ROOT / "playbooks").glob("*.yml"), *(ROOT / "roles").glob("*/tasks/*.yml")]
    return [argv for path in paths for argv in commands(yaml.safe_load(path.read_text()), here=False)]


def commands(tasks: Any, *, here: bool) -> Iterator[list[str]]:
    for task in tasks or ():
        delegated = here or task.get("delegate_to") == "localhost" or task.get("hosts") == "localhost"
        for key in ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always"):
            yield from commands(task.get(key), here=delegated)
        command = task.get("ansible.builtin.command")
        if command and delegated:
            yield command["argv"]
        assert not (delegated and "ansible.builtin.shell" in task), "a command with an argv can be looked at"
