"""Never two writable copies: on each host a prober writes to every PostgreSQL and Redis on the unit's data.

Each accepted write is kept with its host and time (on_host_prober.py). Hosts may take turns only as often as a
promotion gave them leave.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import hosts
from lab.settings import HOSTS, Settings
from lab.units import Deployment
from tests.faults.ledger import Write

PROBER = Path(__file__).with_name("on_host_prober.py")
RECORDS = "/var/lib/lab-two-sides.jsonl"
UNIT = "lab-two-sides"


@dataclass(frozen=True)
class Accepted:
    """A write that a copy accepted at some time from `began` to `ended` (seconds since the epoch)."""

    id: str
    path: str
    host: str
    began: float
    ended: float


def turns(writes: Iterable[Accepted]) -> list[Accepted]:
    """Return the longest chain of writes, each on another host than the one before and surely after it.

    One host that accepts all: a chain of one. A move: of two. Two hosts that accept at the same time: as long as that
    went on. Writes whose times overlap prove no order, so they make no chain longer.
    """
    ordered = sorted(writes, key=lambda write: write.ended)
    chains = [_chain(ordered, first) for first in {write.host for write in ordered}]
    return max(chains, key=len, default=[])


def _chain(ordered: Sequence[Accepted], first: str) -> list[Accepted]:
    """Return the chain that begins on the host `first`; the earliest end leaves the most room for what follows."""
    chain: list[Accepted] = []
    for write in ordered:
        if (not chain and write.host == first) or (
            chain and write.host != chain[-1].host and write.began > chain[-1].ended
        ):
            chain.append(write)
    return chain


def violations(writes: Sequence[Accepted], home: str, promotions: int) -> list[str]:
    """Say for each path where two hosts accepted writes against the rule: one turn for each promotion, from home."""
    found = []
    for path in sorted({write.path for write in writes}):
        mine = [write for write in writes if write.path == path]
        chain = turns(mine)
        first = min(mine, key=lambda write: write.ended)
        if len(chain) > 1 + promotions:
            shown = ", ".join(f"{write.host} {write.ended:.3f}" for write in chain[:6])
            found.append(f"{path}: {len(chain)} turns with {promotions} promotions: {shown}")
        elif first.host != home and first.ended < min(
            (write.began for write in mine if write.host == home), default=float("-inf")
        ):
            found.append(f"{path}: {first.host} accepted before {home} did, at {first.ended:.3f}")
    return found


def handover(writes: Sequence[Accepted], path: str) -> float | None:
    """Return the seconds between the last write on one host and the first on the next: the engine's own outage.

    None where no host followed another.
    """
    mine = sorted((write for write in writes if write.path == path), key=lambda write: write.ended)
    gaps = [b.ended - a.ended for a, b in itertools.pairwise(mine) if a.host != b.host]
    return max(gaps, default=None)


def as_writes(accepted: Iterable[Accepted]) -> list[Write]:
    """Return accepted writes as the ledger has them: what a copy accepted must be there in the end, too."""
    return [Write(each.id, each.path, each.began, each.ended) for each in accepted]


def parse(lines: Iterable[str]) -> list[Accepted]:
    """Return the accepted writes of a prober's records."""
    found = []
    for line in lines:
        try:
            found.append(Accepted(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


@contextmanager
def probing(settings: Settings, deployed: Deployment, every: float = 0.1) -> Iterator[None]:
    """Probe both hosts while the block runs; a prober outlives the engine's death and this process's, until stopped."""
    start(settings, deployed, every)
    try:
        yield
    finally:
        stop(settings)


def start(settings: Settings, deployed: Deployment, every: float = 0.1) -> None:
    """Start a prober on each host, with empty records."""
    stop(settings)
    configuration = json.dumps(
        {
            "volumes": deployed.volumes(),
            "user": deployed.environment("postgres")["POSTGRES_USER"],
            "redis_password": deployed.passwords["redis"],
            "every": every,
            "records": RECORDS,
        }
    )
    for host in HOSTS:
        hosts.ssh(settings, host, "cat > /run/lab-two-sides.py", stdin=PROBER.read_text())
        script = (
            f"umask 077; cat > /run/lab-two-sides.json; rm -f {RECORDS}; touch {RECORDS};"
            f" systemd-run --quiet --collect --unit={UNIT} -p Restart=always"
            f" python3 /run/lab-two-sides.py /run/lab-two-sides.json {host}"
        )
        hosts.ssh(settings, host, script, stdin=configuration)


def stop(settings: Settings) -> None:
    """Stop the probers; their records stay."""
    for host in HOSTS:
        hosts.ssh(settings, host, f"systemctl stop {UNIT} 2>/dev/null; rm -f /run/lab-two-sides.json; true")


def accepted(settings: Settings) -> list[Accepted]:
    """Return what all hosts have accepted."""
    return [
        write for host in HOSTS for write in parse(hosts.ssh(settings, host, f"cat {RECORDS} || true").splitlines())
    ]
