"""Where a move stands: observation first, the journal second; and which verb may run there."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Unit
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.phase import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    COPIED,
    NEW,
    PREPARED,
    PROMOTING,
    SWITCHED,
    SWITCHING,
    Phase,
    Seen,
    decide,
    next_verb,
    refusal,
)

UNIT = Unit("shop", "kvm4", "kvm2", (Member("db"),))


def seen(live: str = "kvm4", lease: str | None = "kvm4", *, armed: bool = False, other: str | None = "parked") -> Seen:
    """One volume, live at one node and as told at the other."""
    nodes = {"kvm4": other, "kvm2": other}
    if live:
        nodes[live] = "live"
    return Seen(frozenset([lease] if lease else []), {"db-data": nodes}, armed)


def journal(*events: str) -> list[dict[str, Any]]:
    """Entries as the engine writes them: `fenced>` leads to the target, `fenced<` back; `undo` is a cancel's step."""
    ways = {"fenced>": ("kvm4", "kvm2"), "fenced<": ("kvm2", "kvm4")}
    entries: list[dict[str, Any]] = []
    for number, event in enumerate(events):
        entry: dict[str, Any] = {"at": f"2026-01-01T00:00:{number:02}+00:00", "event": event.rstrip("<>")}
        if event in ways:
            entry["source"], entry["target"] = ways[event]
        if event in ("cancel", "complete"):
            entry |= {"event": "ended", "how": event}
        if event == "undo":
            entry |= {"event": "intent", "verb": "cancel"}
        entries.append(entry)
    return entries


READY = ("before", "prepared", "copied")
THERE = (*READY, "fenced>", "promotion_intended", "switched")
BACK = ("fenced<", "promotion_intended", "switched")
CANCELLED_BACK = ("fenced<", "unfenced", "undo")
NOBODY = seen(live="", lease=None)
GONE = seen("kvm2", "kvm2")
UNSEEN = Seen(frozenset(["kvm2"]), {"db-data": {"kvm4": "neither", "kvm2": None}})


@pytest.mark.parametrize(
    ("events", "what", "name", "way"),
    [
        ((), seen(lease=None, other="neither"), NEW, ("kvm4", "kvm2")),
        (("before",), seen(lease=None, other="neither"), NEW, ("kvm4", "kvm2")),
        (READY[:2], seen(), PREPARED, ("kvm4", "kvm2")),
        (READY, seen(), COPIED, ("kvm4", "kvm2")),
        # The journal says prepared, but somebody took the lease away.
        (READY, seen(lease=None), NEW, ("kvm4", "kvm2")),
        ((*READY, "fenced>"), seen(), SWITCHING, ("kvm4", "kvm2")),
        ((*READY, "fenced>"), NOBODY, SWITCHING, ("kvm4", "kvm2")),
        ((*READY, "fenced>", "unfenced"), NOBODY, SWITCHING, ("kvm4", "kvm2")),
        ((*READY, "fenced>", "unfenced"), seen(armed=True), SWITCHING, ("kvm4", "kvm2")),
        ((*READY, "fenced>", "unfenced"), seen(), COPIED, ("kvm4", "kvm2")),
        ((*READY, "fenced>", "promotion_intended"), NOBODY, PROMOTING, ("kvm4", "kvm2")),
        ((*READY, "fenced>", "promotion_intended"), GONE, PROMOTING, ("kvm4", "kvm2")),
        (THERE, GONE, SWITCHED, ("kvm2", "kvm4")),
        ((*THERE, "fenced<"), NOBODY, SWITCHING, ("kvm2", "kvm4")),
        ((*THERE, "fenced<", "unfenced"), GONE, SWITCHED, ("kvm2", "kvm4")),
        ((*THERE, "fenced<", "promotion_intended"), NOBODY, PROMOTING, ("kvm2", "kvm4")),
        ((*THERE, "fenced<", "promotion_intended", "switched"), seen(), COPIED, ("kvm4", "kvm2")),
        ((*READY, "cancel"), seen(lease=None, other="neither"), CANCELLED, ("kvm4", "kvm2")),
        # A cancel that was not through has taken away what the marks of before it promise.
        ((*READY, "undo"), seen(), CANCELLING, ("kvm4", "kvm2")),
        ((*READY, "undo"), seen(lease=None, other="neither"), CANCELLING, ("kvm4", "kvm2")),
        ((*READY, "fenced>", "unfenced", "undo"), seen(), CANCELLING, ("kvm4", "kvm2")),
        ((*THERE, "fenced<", "promotion_intended", "switched", "undo"), seen(), CANCELLING, ("kvm4", "kvm2")),
        ((*READY, "undo", "prepared"), seen(), PREPARED, ("kvm4", "kvm2")),
        ((*READY, "undo", "prepared", "copied"), seen(), COPIED, ("kvm4", "kvm2")),
        ((*THERE, "fenced<", "unfenced", "undo"), GONE, SWITCHED, ("kvm2", "kvm4")),
        # Such a cancel has taken nothing away of what was made before the switch.
        ((*THERE, *CANCELLED_BACK, *BACK, "fenced>", "unfenced"), seen(), COPIED, ("kvm4", "kvm2")),
        ((*THERE, *BACK, "undo", "prepared", "fenced>", "unfenced"), seen(), PREPARED, ("kvm4", "kvm2")),
        ((*THERE, "complete"), seen("kvm2", "kvm2", other="neither"), COMPLETED, ("kvm2", "kvm4")),
        # The journal was lost with a disk: what is seen decides.
        ((), GONE, SWITCHED, ("kvm2", "kvm4")),
        ((), seen("kvm2", "kvm2", other="neither"), COMPLETED, ("kvm2", "kvm4")),
        # The target can't be looked at.
        ((*THERE, "complete"), UNSEEN, COMPLETED, ("kvm2", "kvm4")),
        ((), UNSEEN, COMPLETED, ("kvm2", "kvm4")),
        ((), Seen(frozenset(), {"db-data": {"kvm4": "live", "kvm2": None}}), NEW, ("kvm4", "kvm2")),
        ((*READY, "cancel", "before"), seen(lease=None), NEW, ("kvm4", "kvm2")),
    ],
)
def test_phases(events: tuple[str, ...], what: Seen, name: str, way: tuple[str, str]) -> None:
    phase = decide(UNIT, journal(*events), what)
    assert (phase.name, (phase.source, phase.target)) == (name, way)
    assert phase.problem == ""


def test_where_an_ended_move_left_the_unit_is_known_without_a_link() -> None:
    """complete removes the link: the lease tells, as the worker's disk can't be seen any more."""
    ended = journal(*THERE, "complete")
    blind: dict[str, str | None] = {"kvm4": "neither", "kvm2": None}
    assert decide(UNIT, ended, Seen(frozenset(["kvm2"]), {"db-data": blind})).name == COMPLETED
    assert decide(UNIT, ended, Seen(frozenset(), {"db-data": blind})).name == NEW


def test_a_unit_without_volumes_lives_where_its_lease_is() -> None:
    assert decide(UNIT, [], Seen(frozenset(["kvm2"]))).name == COMPLETED
    assert decide(UNIT, [], Seen(frozenset())).name == NEW


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (Seen(frozenset(["kvm4"]), {"db-data": {"kvm4": "live", "kvm2": "live"}}), "live data on kvm2 and on kvm4"),
        (Seen(frozenset(["kvm4", "kvm2"]), {"db-data": {"kvm4": "live", "kvm2": "parked"}}), "the lease is on"),
        (seen("kvm2", "kvm4"), "by the journal the unit runs on kvm4"),
    ],
)
def test_what_contradicts_itself_allows_looking_only(what: Seen, words: str) -> None:
    phase = decide(UNIT, journal(*READY), what)
    assert words in phase.problem
    assert refusal("status", phase, UNIT) == ""
    assert words in refusal("switch", phase, UNIT)


def test_a_switch_knows_since_when() -> None:
    assert decide(UNIT, journal(*THERE), GONE).since == "2026-01-01T00:00:05+00:00"
    assert decide(UNIT, journal(*THERE, "fenced<", "unfenced"), GONE).since == "2026-01-01T00:00:05+00:00"


ALL = {
    NEW: Phase(NEW, "kvm4", "kvm2"),
    CANCELLED: Phase(CANCELLED, "kvm4", "kvm2"),
    CANCELLING: Phase(CANCELLING, "kvm4", "kvm2"),
    PREPARED: Phase(PREPARED, "kvm4", "kvm2"),
    COPIED: Phase(COPIED, "kvm4", "kvm2"),
    "turned back": Phase(COPIED, "kvm4", "kvm2", since="then"),
    SWITCHING: Phase(SWITCHING, "kvm4", "kvm2"),
    "switching back": Phase(SWITCHING, "kvm2", "kvm4", forth=False),
    PROMOTING: Phase(PROMOTING, "kvm4", "kvm2"),
    "promoting back": Phase(PROMOTING, "kvm2", "kvm4", forth=False),
    SWITCHED: Phase(SWITCHED, "kvm2", "kvm4", since="then"),
    "way back taken back": Phase(SWITCHED, "kvm2", "kvm4", since="then", taken_back=True),
    COMPLETED: Phase(COMPLETED, "kvm2", "kvm4"),
}


@pytest.mark.parametrize(
    ("verb", "allowed"),
    [
        ("plan", set(ALL)),
        ("status", set(ALL)),
        ("verify", set(ALL)),
        ("prepare", {NEW, CANCELLED, CANCELLING, PREPARED, COPIED, "turned back"}),
        ("precopy", {PREPARED, COPIED, "turned back"}),
        ("switch", {COPIED, "turned back", SWITCHING, PROMOTING, SWITCHED, "way back taken back"}),
        ("reverse", {SWITCHED, "way back taken back", "switching back", "promoting back", "turned back"}),
        ("complete", {SWITCHED, "way back taken back", COMPLETED}),
        ("cancel", set(ALL) - {PROMOTING, "promoting back", SWITCHED, COMPLETED}),
    ],
)
def test_which_verb_may_run_in_which_phase(verb: str, allowed: set[str]) -> None:
    assert {name for name, phase in ALL.items() if not refusal(verb, phase, UNIT)} == allowed


@pytest.mark.parametrize("name", [name for name in ALL if name != COMPLETED])
def test_the_next_verb_is_allowed(name: str) -> None:
    verb = next_verb(ALL[name])
    assert verb is not None
    assert refusal(verb, ALL[name], UNIT) == ""


def test_after_the_promotions_intent_cancel_says_the_way_back() -> None:
    said = refusal("cancel", ALL[PROMOTING], UNIT)
    assert "verb=switch again" in said
    assert "then verb=reverse" in said


@pytest.mark.parametrize(
    ("home", "target", "lives"),
    [
        # A run was killed between making the target's volume and parking it: the next one goes on with that.
        ("live", "empty", "kvm4"),
        # The service has not written a file yet.
        ("empty", "parked", "kvm4"),
        ("parked", "empty", "kvm2"),
        ("empty", "empty", None),
        ("live", "live", None),
    ],
)
def test_an_empty_live_volume_is_none_beside_a_real_one(home: str, target: str, lives: str | None) -> None:
    seen = Seen(frozenset(["kvm4"]), {"db-data": {"kvm4": home, "kvm2": target}})
    assert seen.lives == lives
