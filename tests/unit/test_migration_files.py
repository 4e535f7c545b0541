"""Manifests of real trees, and what rsync says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.host import LocalHost, SshHost
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import rsync
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import manifest


def tree(top: Path) -> Path:
    (top / "d").mkdir(parents=True)
    (top / "a").write_text("content")
    os.link(top / "a", top / "d" / "b")
    (top / "c").write_text("content")
    (top / "link").symlink_to("nowhere")
    os.mkfifo(top / "pipe")
    (top / os.fsdecode(b"odd \xff\n")).write_text("x")
    for path in [top, *top.rglob("*")]:
        os.utime(path, ns=(1, 1_700_000_000_000_000_001), follow_symlinks=False)
    return top


def rewrite(path: Path) -> None:
    """Same size, same time."""
    before = path.stat()
    path.write_text("cOntent")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_equal_trees_have_equal_manifests(tmp_path: Path) -> None:
    one, other = manifest.summary(str(tree(tmp_path / "1"))), manifest.summary(str(tree(tmp_path / "2")))
    assert one == other
    assert (one["entries"], one["bytes"]) == (8, 15)


@pytest.mark.parametrize(
    "change",
    [
        lambda top: rewrite(top / "c"),
        lambda top: (top / "c").chmod(0o600),
        lambda top: os.utime(top / "c", ns=(1, 1_700_000_000_000_000_002)),
        lambda top: (top / "pipe").unlink(),
        lambda top: Path(shutil.copy2(top / "d" / "b", top / "x")).replace(top / "d" / "b"),
        lambda top: ((top / "link").unlink(), (top / "link").symlink_to("elsewhere")),
        lambda top: (top / "new").mkdir(),
        lambda top: os.setxattr(top / "c", "user.a", b"1"),
    ],
    ids=["content", "mode", "nanosecond", "gone", "link broken", "link target", "new", "attribute"],
)
def test_any_difference_shows(tmp_path: Path, change: Callable[[Path], object]) -> None:
    one, other = tree(tmp_path / "1"), tree(tmp_path / "2")
    try:
        change(other)
    except OSError as error:
        pytest.skip(f"this file system can't: {error}")
    first, second = manifest.summary(str(one)), manifest.summary(str(other))
    assert first["digest"] != second["digest"]
    shares = [
        index for index, pair in enumerate(zip(first["buckets"], second["buckets"], strict=True)) if len({*pair}) > 1
    ]
    assert manifest.entries(str(one), shares) != manifest.entries(str(other), shares)


def test_size_counts_a_file_of_two_names_once(tmp_path: Path) -> None:
    found = manifest.size(str(tree(tmp_path / "1")))
    assert (found["bytes"], found["entries"]) == (15, 8)


def test_what_changed_since(tmp_path: Path) -> None:
    tree(tmp_path / "1")
    assert manifest.changed_since(str(tmp_path / "1"), ["a", "gone"], 2**40) == ["gone"]
    assert manifest.changed_since(str(tmp_path / "1"), ["a"], 0) == ["a"]


HERE, THERE = LocalHost("kvm4"), SshHost("kvm2", ["-i", "/a key"], "root@10.0.0.2")


def test_what_goes_away_under_the_look_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live volume is backed up while its service writes, renames and removes."""
    one = tree(tmp_path / "1")
    for name in ("0-first", "z-gone", "z-gone-too"):
        (one / name).write_text(name)
    content = manifest._content

    def removing(full: bytes) -> str:
        for name in ("z-gone", "z-gone-too"):
            (one / name).unlink(missing_ok=True)
        return content(full)

    monkeypatch.setattr(manifest, "_content", removing)
    seen = manifest.summary(str(one))
    assert seen["entries"] == manifest.summary(str(one))["entries"]


def test_one_end_is_this_machine() -> None:
    push = rsync.Ends(HERE, "/s", THERE, "/t").arguments()
    assert push == ["--rsh", "ssh -i '/a key'", "--", "/s/", "root@10.0.0.2:/t/"]
    assert rsync.Ends(THERE, "/s", HERE, "/t").arguments()[-2:] == ["root@10.0.0.2:/s/", "/t/"]
    with pytest.raises(MoveError, match="the engine runs on neither") as raised:
        rsync.Ends(THERE, "/s", SshHost("kvm3", [], "root@10.0.0.3"), "/t").arguments()
    assert raised.value.code == "no_way"


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (11, 'rsync: write failed on "x": No space left on device (28)', "disk_full"),
        (-9, "", "copy_killed"),
        (12, "connection unexpectedly closed", "copy_broken_off"),
        (255, "ssh: connect to host", "copy_broken_off"),
        (127, "", "no_rsync"),
        (23, "some files could not be transferred", "copy_failed"),
    ],
)
def test_failures_of_rsync(status: int, said: str, code: str) -> None:
    error = rsync.failure(status, said, rsync.Ends(HERE, "/s", THERE, "/t"))
    assert error.code == code
    assert "/s" in error.message


def test_progress_of_rsync() -> None:
    assert rsync.progress("    32768   0%    0.00kB/s    0:00:00 (xfr#1, to-chk=0/2)") == 32768
    assert rsync.progress("sending incremental file list") is None
