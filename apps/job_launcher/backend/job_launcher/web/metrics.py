# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus scrapes: the engine's counters and gauges, and those of the web layer, in a registry of our own."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from job_launcher.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)  # seconds


class Metrics:
    """The numbers of one server."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineMetrics(engine))
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "launcher_http_requests", "Answered requests", ["method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "launcher_http_request_seconds", "Time to the answer", buckets=_BUCKETS, registry=self.registry
        )
        self.logins_failed = Counter("launcher_logins_failed", "Wrong or refused logins", registry=self.registry)
        self.sockets = Gauge("launcher_sockets", "Open push connections", registry=self.registry)
        self.lagged = Counter("launcher_push_lagged", "Viewers told to pull a log", registry=self.registry)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineMetrics(Collector):
    """The engine's own numbers, asked for at each scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: or the registry would ask the engine before it has started."""
        return []

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Names that end in _total are counters, the others gauges."""
        for name, value in self._engine.metrics().items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield kind(f"launcher_{name}", f"The engine's {name}", value=value)
