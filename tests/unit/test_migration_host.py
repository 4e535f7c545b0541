"""What a host is sent, by many threads at once."""

from __future__ import annotations

import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import host
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import copies


def test_one_thread_at_a_time_reads_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """linecache loses an archive's module for the second of two readers, and lanes of a move are threads."""
    inside = threading.Semaphore(1)

    def read(_module: object) -> str:
        assert inside.acquire(blocking=False), "two at once"
        time.sleep(0.01)
        inside.release()
        return "source"

    monkeypatch.setattr(inspect, "getsource", read)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(host.source_of, [copies] * 4)) == ["source"] * 4
