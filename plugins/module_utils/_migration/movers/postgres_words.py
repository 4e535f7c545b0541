# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a PostgreSQL's own words mean for a move: one sentence, and what to run."""

from __future__ import annotations

import re

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.companion import LOOK_AT_LINK

#: PostgreSQL's words for a disk that is full.
FULL = r"No space left on device|Disk quota exceeded"
#: Code of trouble that only a new container ends.
BARE = "no_secret"
_MEANINGS = (
    (
        FULL,
        "disk_full",
        "the disk of {place} is full: make room there, then run precopy again",
    ),
    (
        # The passfile is written whole before a container can be made with it.
        r"no password supplied",
        BARE,
        "its container on {place} was made without its secret, as Docker does when it is killed just then:"
        " run precopy again",
    ),
    (
        r"password authentication failed",
        "wrong_password",
        "the replication role's password is not the one in the secret: run precopy again",
    ),
    (
        r"role .* does not exist|is not permitted to log in|must be superuser or replication role",
        "no_role",
        "the replication role is missing: run precopy again",
    ),
    (
        r"no pg_hba\.conf entry",
        "not_let_in",
        "the source's pg_hba.conf doesn't let the replication role in: run precopy again",
    ),
    (
        r"requested WAL segment .* has already been removed|can no longer (?:get changes|be used|access)",
        "wal_lost",
        "the source has thrown away WAL that the copy still needs: run precopy again, it copies anew",
    ),
    (
        r"replication slot .* does not exist",
        "slot_dropped",
        "the copy's replication slot is gone: run precopy again, it copies anew",
    ),
    (
        r"all replication slots are in use",
        "no_slot_free",
        "the source has no replication slot left: raise max_replication_slots",
    ),
    (
        r"database system identifier differs",
        "other_system",
        "the copy is of another database: run cancel, then prepare again",
    ),
    (
        r"could not translate host name|could not connect to server|connection to server .* failed",
        "source_unreachable",
        f"the source can't be reached from {{place}} over the overlay network: {LOOK_AT_LINK}; then run precopy again",
    ),
    (
        r"recovery aborted because of insufficient parameter settings",
        "settings_differ",
        "the source runs with higher settings than its configuration has: restart the source, then run precopy again",
    ),
)

#: Codes of trouble that goes by itself: a standby tries again every second.
PASSING = ("source_unreachable",)


def explain(log: str, place: str) -> tuple[str, str] | None:
    """Return code and sentence for the newest trouble that a log tells of, None if it tells of none known here."""
    for line in reversed(log.splitlines()):
        for pattern, code, sentence in _MEANINGS:
            if re.search(pattern, line):
                return code, sentence.format(place=place)
    return None


def last_line(log: str) -> str:
    """Return the last line of a log that isn't empty."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "it said nothing"
