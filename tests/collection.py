"""The collection as people get it: built, installed into an empty path, run by a controller with ansible-core alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def project_files() -> list[str]:
    """Paths of all files that git would check out, and of those that are about to be committed."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = filter(None, listing.stdout.split("\0"))
    return sorted(name for name in names if (ROOT / name).is_symlink() or (ROOT / name).is_file())


def copy_project(target: Path) -> None:
    """Make a checkout as git would, with links kept."""
    for name in project_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


def build(project: Path, target: Path) -> Path:
    """Build a project's collection into a directory; return the archive's path."""
    galaxy("build", "--output-path", str(target), project=project)
    [archive] = target.glob("evenkeel-swarm-*.tar.gz")
    return archive


def install(archive: Path, target: Path) -> Path:
    """Install an archive into an empty path, without a network; return where the collection lies."""
    # By force, or galaxy is content with the checkout, which the project's configuration already has on the path.
    galaxy("install", "--offline", "--no-deps", "--force", "-p", str(target), str(archive), project=target.parent)
    return target / "ansible_collections" / "evenkeel" / "swarm"


def galaxy(*arguments: str, project: Path) -> None:
    done = subprocess.run(
        [str(BIN / "ansible-galaxy"), "collection", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def brought_along(distribution: str) -> set[str]:
    """Names of the distributions that one needs to be installed with, itself included, in lower case."""
    found: set[str] = set()
    wanted = [distribution]
    while wanted:
        name = wanted.pop().lower()
        if name in found:
            continue
        found.add(name)
        needs = (Requirement(text) for text in metadata.requires(name) or [])
        wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def bare_controller(folder: Path) -> Path:
    """Make a Python environment with ansible-core and what it needs, nothing else; return its directory of commands."""
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    for name in brought_along("ansible-core"):
        distribution = metadata.distribution(name)
        here = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(here / top)
    command = folder / "bin" / "ansible-playbook"
    command.write_text(f"#!{folder}/bin/python\nfrom ansible.cli.playbook import main\nmain()\n")
    command.chmod(0o755)
    return command.parent
