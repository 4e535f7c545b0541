"""The services as the manager knows them, against what the estate's owner asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["ansible://swarm_manager?force_ansible=True"]

MIB = 2**20
# Cores and MiB, written out: reading them from the table would prove only that it was read.
LIMITS = {
    "infrastructureservices-temporalserver-k3v9qa": (2.0, 512),
    "backend-saleor-api": (1.5, 1024),
    "backend-wagtail-cms": (1.0, 512),
    "backend-django-crm": (1.0, 512),
    "backend-brain-gateway": (0.5, 1024),
    "backend-ai-agents": (0.5, 512),
    "infrastructure-shared-postgres": (0.5, 1024),
    "frontend-admin-dashboard": (0.25, 512),
    "infrastructure-shared-redis": (0.25, 256),
    "infrastructureservices-saleorredis-nzd5pv": (0.25, 256),
    "infrastructure-mailhog": (0.025, 256),
}


@pytest.fixture(scope="module")
def services(host: Any) -> dict[str, Any]:
    inspected = json.loads(host.check_output("docker service inspect $(docker service ls --quiet)"))
    return {service["Spec"]["Name"]: service for service in inspected}


@pytest.mark.parametrize("name", LIMITS)
def test_service_has_its_limits(services: dict[str, Any], name: str) -> None:
    limits = services[name]["Spec"]["TaskTemplate"]["Resources"]["Limits"]
    cores, mebibytes = LIMITS[name]
    assert (limits["NanoCPUs"], limits["MemoryBytes"]) == (round(cores * 1e9), mebibytes * MIB)


def test_all_services_are_there_and_superset_is_stopped(services: dict[str, Any]) -> None:
    replicas = {name: service["Spec"]["Mode"]["Replicated"]["Replicas"] for name, service in services.items()}
    assert (len(replicas), sum(replicas.values())) == (30, 21)
    assert replicas["infrastructure-superset"] == 0


def test_no_update_is_left_unfinished(services: dict[str, Any]) -> None:
    states = {service["UpdateStatus"]["State"] for service in services.values() if service.get("UpdateStatus")}
    assert states <= {"completed"}


def test_report_tells_of_every_service() -> None:
    reports = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "reports" / os.environ["LAB_NAME"]
    report = json.loads((reports / "throttling.json").read_text())
    assert report["totals"]["services"] == 30
    assert report["totals"]["running_tasks"] == 21
    assert report["totals"]["limits_cpus"] == pytest.approx(9.5)
    assert report["drifted"] == []
    assert {node["name"] for node in report["nodes"]} == {"kvm4", "kvm2"}
    assert "OVER DECLARED" in (reports / "throttling.txt").read_text()
