# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine, or the control group that the launcher runs in, allows."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def parse_quota(text: str) -> float | None:
    """Return CPUs of cgroup v2's cpu.max, or v1's quota and period in one line; None: no limit."""
    quota, period = text.split()[:2]
    return None if quota in {"max", "-1"} else int(quota) / int(period)


def cpu_quota(root: Path = CGROUP) -> float:
    """Return the CPUs that may be used: by quota, or those there are."""
    there = float(len(os.sched_getaffinity(0)))
    text = _text(root / "cpu.max") or " ".join(
        _text(root / "cpu" / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")
    )
    quota = parse_quota(text) if text.strip() else None
    return there if quota is None else min(quota, there)


def memory_limit(root: Path = CGROUP) -> int:
    """Return the memory that may be used, bytes: by limit, or what there is."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = _text(root / "memory.max") or _text(root / "memory" / "memory.limit_in_bytes") or "max"
    return there if text == "max" else min(int(text), there)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
