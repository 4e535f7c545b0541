"""Where a volume's data lies, and whose it is: on real directories."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies


def volume(root: Path, *files: str) -> Path:
    data = root / "volumes" / "media" / "_data"
    data.mkdir(parents=True)
    for name in files:
        (data / name).write_text(name)
    return data


def test_a_copy_is_live_or_parked_and_says_whether_it_holds_anything(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert copies.look(root, "media") | {"free": 0, "total": 0, "files": 0} == {
        "state": "neither",
        "live": str(tmp_path / "volumes/media/_data"),
        "parked": str(tmp_path / "evenkeel/media/data"),
        "empty": None,
        "owner": None,
        "free": 0,
        "total": 0,
        "files": 0,
    }
    volume(tmp_path)
    assert (copies.look(root, "media")["state"], copies.look(root, "media")["empty"]) == ("live", True)
    (tmp_path / "volumes/media/_data/a").write_text("a")
    copies.park(root, "media")
    assert (copies.look(root, "media")["state"], copies.look(root, "media")["empty"]) == ("parked", False)
    copies.bring_live(root, "media")
    assert (tmp_path / "volumes/media/_data/a").read_text() == "a"
    (tmp_path / "evenkeel/media/data").mkdir(parents=True)
    assert (copies.look(root, "media")["state"], copies.look(root, "media")["empty"]) == ("both", None)


def test_a_claimed_copy_is_refused_to_everybody_else(tmp_path: Path) -> None:
    root = str(tmp_path)
    volume(tmp_path, "a")
    copies.claim(root, "media", "saleor", "m1")
    copies.claim(root, "media", "saleor", "m1")
    copies.park(root, "media")
    assert copies.look(root, "media")["owner"] == {"unit": "saleor", "move": "m1"}
    for unit, move in (("saleor", "m2"), ("superset", "m1")):
        with pytest.raises(ValueError, match="belongs to the unit saleor \\(move m1\\)"):
            copies.claim(root, "media", unit, move)
        with pytest.raises(ValueError, match="left where it is"):
            copies.discard(root, "media", unit, move)
        copies.release(root, "media", unit, move)
    assert (tmp_path / "evenkeel/media/data/a").exists()


def test_a_damaged_marker_is_nobodys_licence(tmp_path: Path) -> None:
    volume(tmp_path, "a")
    copies.claim(str(tmp_path), "media", "saleor", "m1")
    (tmp_path / "evenkeel/media/owner.json").write_text("")
    with pytest.raises(ValueError, match="belongs to the unit \\?"):
        copies.claim(str(tmp_path), "media", "saleor", "m1")


def test_a_parked_copy_without_a_marker_is_not_discarded(tmp_path: Path) -> None:
    volume(tmp_path, "a")
    copies.park(str(tmp_path), "media")
    with pytest.raises(ValueError, match="nobody that can be told"):
        copies.discard(str(tmp_path), "media", "saleor", "m1")


def test_discarding_removes_copy_and_marker_and_may_be_repeated(tmp_path: Path) -> None:
    root = str(tmp_path)
    volume(tmp_path, "a")
    copies.claim(root, "media", "saleor", "m1")
    copies.park(root, "media")
    copies.discard(root, "media", "saleor", "m1")
    copies.discard(root, "media", "saleor", "m1")
    assert not (tmp_path / "evenkeel/media").exists()


def test_releasing_leaves_the_data_alone(tmp_path: Path) -> None:
    root = str(tmp_path)
    data = volume(tmp_path, "a")
    copies.claim(root, "media", "saleor", "m1")
    copies.release(root, "media", "saleor", "m1")
    assert copies.look(root, "media")["owner"] is None
    assert (data / "a").exists()


def test_room_is_that_of_the_nearest_directory_there_is(tmp_path: Path) -> None:
    found = copies.room(str(tmp_path / "not" / "yet"))
    assert 0 < (found["free"] or 0) <= (found["total"] or 0)
    assert found["files"] is None or found["files"] > 0
