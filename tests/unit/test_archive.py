# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's archive holds what its users need and nothing else, whatever lies about where it is built."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests import collection

FOLDERS = ("changelogs", "docs", "meta", "playbooks", "plugins", "roles")
FILES = ("LICENSE", "README.md")
#: What ansible-galaxy adds.
MADE = ("FILES.json", "MANIFEST.json")
#: Playbooks that work with files of the project beside them.
OF_THE_PROJECT = ("playbooks/awx.yml", "playbooks/tasks/awx_notifications.yml")
#: What a used checkout holds besides git's files.
LEFT_ABOUT = (
    ".cache/ee/context/Containerfile",
    ".lab/demo/id_ed25519",
    ".mypy_cache/3.11/a.json",
    "evenkeel-swarm-0.0.9.tar.gz",
    "inventory/production/group_vars/swarm/vault.yml",
    "playbooks/limits.retry",
    "plugins/filter/__pycache__/artifact.cpython-311.pyc",
    "reports/demo/throttling.json",
    "tests/artifacts/page.png",
)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tarfile.TarInfo]:
    """The archive's files, built in a checkout that somebody works in."""
    project, target = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("archive")
    collection.copy_project(project)
    for name in LEFT_ABOUT:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("secret\n")
    with tarfile.open(collection.build(project, target)) as archive:
        return {member.name: member for member in archive.getmembers()}


def test_the_archive_is_the_collection_and_nothing_else(members: dict[str, tarfile.TarInfo]) -> None:
    files = {name for name, member in members.items() if not member.isdir()}
    needed = {name for name in collection.project_files() if name.startswith(tuple(f"{top}/" for top in FOLDERS))}
    assert files == {*needed, *FILES, *MADE} - set(OF_THE_PROJECT)


def test_every_folder_of_the_project_is_decided_on(members: dict[str, tarfile.TarInfo]) -> None:
    assert {name.partition("/")[0] for name in members} == {*FOLDERS, *FILES, *MADE}


def test_what_runs_is_there(members: dict[str, tarfile.TarInfo]) -> None:
    assert {"playbooks/site.yml", "meta/runtime.yml", "meta/execution-environment.yml"} <= set(members)
    assert not [name for name, member in members.items() if member.issym() or member.islnk()]


def test_no_playbook_or_role_reaches_out_of_the_archive() -> None:
    """A path up from a playbook or a role must end in a folder that is in the archive."""
    texts = {
        path: path.read_text() for top in ("playbooks", "roles") for path in (collection.ROOT / top).rglob("*.yml")
    }
    upwards = {path: line for path, text in texts.items() for line in text.splitlines() if "../.." in line}
    assert {path.relative_to(collection.ROOT).as_posix() for path in upwards} <= {"roles/report/vars/main.yml"}
    assert all("/../../playbooks/" in line for line in upwards.values())
    assert Path(collection.ROOT / "roles/report/../../playbooks/limits.yml").is_file()
