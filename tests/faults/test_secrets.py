"""Nothing secret in output at -vvv, in journals or in a command line, through a whole move there and back."""

from __future__ import annotations

import time

import pytest

from lab import hosts
from lab.settings import HOSTS
from tests.faults import leaks
from tests.faults.rig import Rig


@pytest.mark.fast
def test_what_is_looked_for_is_found(rig: Rig) -> None:
    """Each place that is looked at gets a secret, and each is reported."""
    word = "planted-for-the-test-6b1f"
    settings = rig.settings
    with leaks.sampling(settings):
        hosts.ssh(settings, "kvm2", f"sh -c 'sleep 0.3; : {word}'")
        hosts.ssh(settings, "kvm4", "logger -t lab-test", stdin=word)
        hosts.ssh(settings, "kvm4", "cat > /tmp/lab-readable; chmod 644 /tmp/lab-readable", stdin=word)
        hosts.ssh(settings, "kvm2", "mkdir -p /var/lib/evenkeel; cat > /var/lib/evenkeel/t.jsonl", stdin=word)
        time.sleep(0.2)
    found = leaks.find(rig, {"the word": word})
    hosts.ssh(settings, "kvm4", "rm -f /tmp/lab-readable")
    hosts.ssh(settings, "kvm2", "rm -f /var/lib/evenkeel/t.jsonl")
    assert any(each.startswith("the word in argv on kvm2") for each in found)
    assert "the word in the systemd journal of kvm4" in found
    assert "a secret in /tmp/lab-readable on kvm4, which others may read" in found
    assert "the word in a move's journal on kvm2" in found


def test_a_unit_at_rest_shows_nothing(rig: Rig) -> None:
    """The lab's own way of deploying a unit must not be what the next test finds."""
    with leaks.sampling(rig.settings):
        rig.restore()
    assert leaks.find(rig, leaks.secrets_of(rig)) == []


@pytest.mark.fast
def test_a_whole_move_there_and_back_shows_nothing_secret(rig: Rig) -> None:
    rig.restore()
    secrets: dict[str, str] = {}
    begun = len(rig.plays)
    with leaks.sampling(rig.settings):
        for verb in ("plan", "prepare", "precopy", "status", "verify", "switch", "reverse", "cancel"):
            play = rig.begin(verb, verbosity="-vvv").wait()
            secrets |= leaks.secrets_of(rig)
            assert play.status == 0 or verb == "cancel", f"verb={verb}: {play.log}"
    assert len(rig.plays) == begun + 8
    assert len(secrets) > len(rig.deployed.passwords), "a move makes secrets of its own, and none was seen"
    assert leaks.find(rig, secrets) == []
    assert all(hosts.ssh(rig.settings, host, f"wc -l < {leaks.SAMPLES}") != "0" for host in HOSTS)
