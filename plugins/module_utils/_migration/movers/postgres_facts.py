# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a PostgreSQL is and what about it would hurt a move: one query of the server, pure judgement of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Trap
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import (
    Layout,
    Server,
    literal,
)

#: Backup manifests, wal_status and max_slot_wal_keep_size came with it.
OLDEST = 130000
#: What a switch of a running standby takes without its data: stop, gate, promotion, start of a task; seconds. A guess
#: between what the lab showed beside other work: 3.2 to 7.6 s, three switches of a database of 322 MB.
SWITCH_SECONDS = 5.0
#: Refusals that a move by dump does not know.
DUMPABLE = (
    "version_too_old",
    "wal_level",
    "max_wal_senders",
    "max_replication_slots",
    "tablespaces",
    "wal_elsewhere",
    "hba_outside",
    "unlogged_tables",
    "no_network",
)

_WHOLE = """
SELECT json_build_object(
  'version', current_setting('server_version'),
  'version_num', current_setting('server_version_num')::int,
  'system_id', (SELECT system_identifier::text FROM pg_control_system()),
  'control_version', (SELECT pg_control_version FROM pg_control_system()),
  'timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
  'checkpoint', (SELECT checkpoint_lsn::text FROM pg_control_checkpoint()),
  'in_recovery', pg_is_in_recovery(),
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  'bytes', (SELECT sum(pg_database_size(oid)) FROM pg_database),
  'wal_bytes', (SELECT coalesce(sum(size), 0) FROM pg_ls_waldir()),
  'hba_file', current_setting('hba_file'),
  'data_directory', current_setting('data_directory'),
  'wal_level', current_setting('wal_level'),
  'max_wal_senders', current_setting('max_wal_senders')::int,
  'wal_senders', (SELECT count(*) FROM pg_stat_replication),
  'max_replication_slots', current_setting('max_replication_slots')::int,
  'max_slot_wal_keep_size', current_setting('max_slot_wal_keep_size', true),
  'synchronous_standby_names', current_setting('synchronous_standby_names'),
  'slots', (SELECT coalesce(json_agg(slot_name ORDER BY slot_name), '[]') FROM pg_replication_slots),
  'tablespaces', (SELECT coalesce(json_agg(pg_tablespace_location(oid)), '[]') FROM pg_tablespace
                  WHERE pg_tablespace_location(oid) <> ''),
  'databases', (SELECT json_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn),
  'clients', (SELECT coalesce(json_agg(row_to_json(c)), '[]') FROM
              (SELECT application_name AS application, usename AS "user", datname AS database,
                      coalesce(host(client_addr), 'local') AS address, count(*) AS connections
               FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
               GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1) c))
"""
_EACH = """
SELECT json_build_object(
  'extensions', (SELECT json_object_agg(extname, extversion ORDER BY extname) FROM pg_extension),
  'unlogged', (SELECT coalesce(json_agg(oid::regclass::text), '[]') FROM pg_class
               WHERE relpersistence = 'u' AND relkind = 'r'),
  'stale_collations', (SELECT coalesce(json_agg(collname), '[]') FROM pg_collation
                       WHERE collversion IS DISTINCT FROM pg_collation_actual_version(oid)
                       AND collversion IS NOT NULL){more})
"""
_DATABASE_COLLATION = """,
  'stale', (SELECT datcollversion IS NOT NULL AND datcollversion <> pg_database_collation_actual_version(oid)
            FROM pg_database WHERE datname = current_database())"""


def look_at(server: Server) -> dict[str, Any]:
    """Return what the server says of itself; `each`: database -> its extensions, unlogged tables, stale collations."""
    found: dict[str, Any] = server.ask(_WHOLE)
    more = _DATABASE_COLLATION if found["version_num"] >= 150000 else ""
    found["each"] = {name: server.ask(_EACH.format(more=more), name) for name in found["databases"]}
    return found


def refusals(
    found: Mapping[str, Any],
    layout: Layout,
    disk: Mapping[str, Any],
    *,
    ours: set[str],
    networks: list[str],
    free: int | None,
) -> list[Trap]:
    """Return what forbids a move by a streaming standby.

    `found` of look_at(); `disk` of pg_data.look() for the live copy; `ours`: slots of this move; `networks`: subnets;
    `free`: bytes on the target's disk, None if not measured.
    """
    checks = [
        (
            found["version_num"] < OLDEST,
            "version_too_old",
            f"PostgreSQL {found['version']} is too old to be copied with a proof (13 is the oldest)",
            "move it by dump (mover: dump)",
        ),
        (
            not found["superuser"],
            "no_superuser",
            f"the role {layout.superuser} is no superuser",
            "name the superuser in the unit's member (superuser)",
        ),
        (
            found["in_recovery"],
            "is_a_standby",
            "this server follows another and can't be moved as a primary",
            "move the server that it follows, or promote it first",
        ),
        (
            found["wal_level"] == "minimal",
            "wal_level",
            "wal_level is minimal: no standby can follow",
            "ALTER SYSTEM SET wal_level = 'replica', restart the service",
        ),
        (
            found["max_wal_senders"] - found["wal_senders"] < 2 and not ours & set(found["slots"]),
            "max_wal_senders",
            f"{found['wal_senders']} of {found['max_wal_senders']} WAL senders are in use; a copy takes 2",
            "raise max_wal_senders, restart the service",
        ),
        (
            len(set(found["slots"]) - ours) >= found["max_replication_slots"] - 1,
            "max_replication_slots",
            f"all {found['max_replication_slots']} replication slots are in use",
            "raise max_replication_slots, restart the service",
        ),
        (
            bool(set(found["slots"]) - ours),
            "other_slots",
            f"other replication slots would not come along: {', '.join(sorted(set(found['slots']) - ours))}",
            "end what reads from them and drop them; make them anew after the move",
        ),
        (
            found["synchronous_standby_names"] != "",
            "synchronous_standby",
            "synchronous_standby_names is set: on the target every commit would wait for standbys that are not there",
            "clear it for the move",
        ),
        (
            any(not _inside(place, layout.mount) for place in found["tablespaces"]),
            "tablespaces",
            f"tablespaces lie outside of the volume: {', '.join(found['tablespaces'])}",
            "move their tables into the default tablespace, or move by dump (mover: dump)",
        ),
        (
            bool(disk["wal_elsewhere"]),
            "wal_elsewhere",
            "pg_wal is a link to a place outside of the data directory",
            "put pg_wal back into the data directory",
        ),
        (
            not _inside(found["hba_file"], layout.data),
            "hba_outside",
            f"{found['hba_file']} lies outside of the data directory, so the move can't let its replication role in",
            "set hba_file back to its place in the data directory",
        ),
        (not networks, "no_network", "the service is on no overlay network", "attach it to one, as its clients are"),
        *_unlogged(found),
        *_strangers(layout, disk),
        *_control(found, disk),
        *_room(found, free),
    ]
    return [Trap(code, text, remedy, refuses=True) for holds, code, text, remedy in checks if holds]


def warnings(found: Mapping[str, Any]) -> list[Trap]:
    """Return what the move leaves as it is, and people should know."""
    stale = [name for name, each in found["each"].items() if each.get("stale") or each["stale_collations"]]
    if not stale:
        return []
    text = f"collation versions differ from the image's already now, in {', '.join(stale)}: indexes may be wrong"
    return [Trap("stale_collations", text, "REINDEX, then ALTER … REFRESH COLLATION VERSION; the move changes nothing")]


def room_needed(found: Mapping[str, Any]) -> int:
    """Return the bytes that a copy takes: data, WAL, and a tenth for what is written meanwhile."""
    return int((int(found["bytes"]) + int(found["wal_bytes"])) * 1.1)


def bounded_wal(free: int) -> int:
    """Return a bound in MB for the WAL that slots may keep: half of what is free, at least 1 GB."""
    return max(1024, free // 2 // 1024**2)


def set_setting(name: str, value: str | None) -> str:
    """Return SQL that sets a server's setting for good, or with None takes it out of postgresql.auto.conf."""
    return f"ALTER SYSTEM RESET {name};" if value is None else f"ALTER SYSTEM SET {name} = {literal(value)};"


def _unlogged(found: Mapping[str, Any]) -> list[tuple[bool, str, str, str]]:
    tables = [f"{name}: {table}" for name, each in found["each"].items() for table in each["unlogged"]]
    text = f"unlogged tables are not replicated and would arrive empty: {', '.join(tables[:5])}"
    return [(bool(tables), "unlogged_tables", text, "ALTER TABLE … SET LOGGED, or move by dump (mover: dump)")]


def _strangers(layout: Layout, disk: Mapping[str, Any]) -> list[tuple[bool, str, str, str]]:
    if not layout.relative:
        return []
    kept = (layout.relative.split("/")[0], "lost+found")
    others = [name for name in disk["entries"] if name not in kept and not name.startswith(".")]
    text = f"beside the data directory the volume holds what is not PostgreSQL's: {', '.join(others[:5])}"
    return [(bool(others), "other_files", text, "no mover takes it along: move it out of the volume")]


def _control(found: Mapping[str, Any], disk: Mapping[str, Any]) -> list[tuple[bool, str, str, str]]:
    read = disk["control"] or {}
    same = (read.get("system_id"), read.get("version")) == (found["system_id"], found["control_version"])
    text = f"global/pg_control of PostgreSQL {found['version']} is not read here as the server reads it itself"
    return [(not same, "control_file", text, "no mover takes it: this file proves that the source was stopped cleanly")]


def _room(found: Mapping[str, Any], free: int | None) -> list[tuple[bool, str, str, str]]:
    needed = room_needed(found)
    if free is None or free >= needed:
        return []
    text = f"the copy takes {needed} bytes, and the target's disk has {free} free"
    return [(True, "disk_too_small", text, "make room on the target")]


def _inside(path: str, directory: str) -> bool:
    return (path + "/").startswith(directory.rstrip("/") + "/")
