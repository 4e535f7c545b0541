"""The lab's pure parts; the rest is tested by being used."""

from __future__ import annotations

import pytest

from lab.engine import undo_rules
from lab.estate import demand
from lab.hosts import cpu_set, subnets
from lab.run import LabError
from lab.settings import from_environment

BEFORE = """\
*filter
:INPUT ACCEPT [10:100]
:FORWARD ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""
AFTER = """\
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.213.0.0/24 ! -o evenkeel0 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [99:999]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -p tcp -m tcp --dport 80 -m comment --comment "someone else's" -j ACCEPT
-A FORWARD -o br-0123456789ab -j DOCKER
COMMIT
"""


def test_the_engine_s_firewall_rules_go_and_nobody_else_s() -> None:
    assert undo_rules(BEFORE, AFTER) == [
        ["-t", "nat", "-D", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER"],
        ["-t", "nat", "-D", "POSTROUTING", "-s", "10.213.0.0/24", "!", "-o", "evenkeel0", "-j", "MASQUERADE"],
        ["-t", "nat", "-F", "DOCKER"],
        ["-t", "nat", "-X", "DOCKER"],
        ["-t", "filter", "-D", "FORWARD", "-o", "br-0123456789ab", "-j", "DOCKER"],
        ["-t", "filter", "-F", "DOCKER"],
        ["-t", "filter", "-X", "DOCKER"],
        ["-t", "filter", "-P", "INPUT", "ACCEPT"],
        ["-t", "filter", "-P", "FORWARD", "ACCEPT"],
    ]


def test_a_machine_without_rules_gets_its_open_policy_back() -> None:
    assert undo_rules("", "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n") == [["-t", "filter", "-P", "FORWARD", "ACCEPT"]]


def test_a_subnet_that_a_killed_engine_still_translates_is_not_taken() -> None:
    rules = """*nat
-A POSTROUTING -s 10.213.1.0/24 ! -o br-4ab0d143167f -j MASQUERADE
-A POSTROUTING -s 10.213.3.5/32 -d 10.213.3.5/32 -p tcp -m tcp --dport 5000 -j MASQUERADE
"""
    assert [str(each) for each in subnets(rules)[:2]] == ["10.213.2.0/24", "10.213.3.0/24"]
    assert str(subnets("")[0]) == "10.213.1.0/24"


@pytest.mark.parametrize(
    ("cores", "at_full_load", "loops"),
    [(10.8, 10.8, 18), (0.108, 10.8, 18), (43.2, 10.8, 45), (1.0, 1.0, 1), (0.05, 0.05, 1), (1.6, 1.6, 7), (2, 0.6, 2)],
)
def test_demand_adds_up_to_what_was_asked(cores: float, at_full_load: float, loops: int) -> None:
    groups = [group.split("x") for group in demand(cores, at_full_load)["DEMAND"].split()]
    assert sum(int(count) for count, _ in groups) == loops
    assert sum(int(count) * float(share) for count, share in groups) == pytest.approx(cores, rel=1e-4)
    assert all(0 < float(share) <= 1 for _, share in groups)


def test_what_is_over_whole_cores_still_pauses_when_slowed_down() -> None:
    assert demand(10.8, 10.8) == {"DEMAND": "10x1 8x0.1"}
    assert demand(1.25, 1.25) == {"DEMAND": "1x1 3x0.0833333"}


def test_no_demand_starts_nothing() -> None:
    assert demand(0, 10.8) == {}


@pytest.mark.parametrize(
    ("host", "vcpus", "cores", "expected"),
    [("kvm4", 4, 2, "0-1"), ("kvm2", 2, 2, "0-1"), ("kvm4", 4, 8, "0-3"), ("kvm2", 2, 8, "6-7"), ("kvm2", 2, 1, "0-0")],
)
def test_hosts_get_cores_that_exist(host: str, vcpus: int, cores: int, expected: str) -> None:
    assert cpu_set(host, vcpus, cores) == expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [("LAB_NAME", "No!"), ("LAB_NAME", "x" * 21), ("LAB_DEBIAN", "sid"), ("LAB_LOAD", "much"), ("LAB_LOAD", "-1")],
)
def test_a_bad_variable_is_named(variable: str, value: str) -> None:
    with pytest.raises(LabError, match=variable):
        from_environment({variable: value})


def test_labs_of_different_names_share_nothing() -> None:
    one, other = from_environment({"LAB_NAME": "one"}), from_environment({"LAB_NAME": "other"})
    assert {one.network, one.container("kvm4"), str(one.directory)}.isdisjoint(
        {other.network, other.container("kvm4"), str(other.directory)}
    )
