# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The estate's table against the estate's services: what the limits sum to, without a connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.evenkeel.swarm.plugins.filter.limits_sum import limits_sum

ROOT = Path(__file__).resolve().parents[2]
GIB, MIB = 2**30, 2**20


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture
def services() -> list[dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = load("lab/estate.yml")["estate_services"]
    return [
        {"name": name, "replicas": entry.get("replicas", 1), "labels": {"evenkeel.tier": entry["tier"]}}
        for name, entry in entries.items()
    ]


def test_limits_sum_to_nine_and_a_half_cpus_on_four(services: list[dict[str, Any]]) -> None:
    table = load("inventory/production/group_vars/swarm/limits.yml")["service_limits_table"]
    cores = load("inventory/production/host_vars/kvm4.yml")["swarm_node_vcpus"]
    sums = limits_sum(table, services, cores)
    assert (sums["services"], sums["running_tasks"]) == (30, 21)
    assert sums["limits_cpus"] == 9.5
    assert f"{sums['oversubscription']:.1f}x" == "2.4x"
    assert sums["unlimited_cpus"] == 0


def test_another_limit_or_another_size_gives_another_sum(services: list[dict[str, Any]]) -> None:
    table = load("inventory/estate/limits.yml")["service_limits_table"]
    table[0]["limits"]["cpus"] = 1.0
    assert limits_sum(table, services, 8)["oversubscription"] == 8.5 / 8


@pytest.mark.parametrize(
    ("service", "cpus", "memory"),
    [
        ("infrastructureservices-temporalserver-k3v9qa", 2.0, 512 * MIB),
        ("backend-saleor-api", 1.5, GIB),
        ("backend-wagtail-cms", 1.0, 512 * MIB),
        ("backend-django-crm", 1.0, 512 * MIB),
        ("infrastructure-shared-postgres", 0.5, GIB),
        ("backend-brain-gateway", 0.5, GIB),
        ("frontend-admin-dashboard", 0.25, 512 * MIB),
        ("frontend-client-portal", 0.25, 512 * MIB),
        ("frontend-business-directory", 0.25, 512 * MIB),
        ("infrastructure-shared-redis", 0.25, 256 * MIB),
        ("infrastructureservices-saleorredis-nzd5pv", 0.25, 256 * MIB),
        ("dokploy-redis", 0.25, 256 * MIB),
        ("backend-ai-agents", 0.5, 512 * MIB),
        ("dokploy", 0.5, 0),
    ],
)
def test_each_service_of_the_notes_gets_its_limits(
    services: list[dict[str, Any]], service: str, cpus: float, memory: int
) -> None:
    table = load("inventory/estate/limits.yml")["service_limits_table"]
    others = [{**entry, "replicas": int(entry["name"] == service)} for entry in services]
    sums = limits_sum(table, others, 1)
    assert (sums["limits_cpus"], sums["limits_memory"]) == (cpus, memory)
