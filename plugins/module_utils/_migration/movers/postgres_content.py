# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two PostgreSQL servers must have in common after a move: taken from each, compared as plain data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.postgres_server import Server

Content = dict[str, dict[str, dict[str, Any]]]
#: How many values a sequence logs ahead (SEQ_LOG_VALS): a promoted copy goes on behind them, and skips some.
SEQUENCE_AHEAD = 33
_CLUSTER = "*"

_SHARED = """
SET search_path = pg_catalog;
SELECT json_build_array('role', rolname, md5(concat_ws(',', rolsuper, rolinherit, rolcreaterole, rolcreatedb,
  rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, rolvaliduntil, rolpassword))) FROM pg_authid;
SELECT json_build_array('membership', pg_get_userbyid(member) || ' in ' || pg_get_userbyid(roleid), admin_option)
  FROM pg_auth_members;
SELECT json_build_array('database', datname,
  json_build_array(pg_get_userbyid(datdba), encoding, datcollate, datctype, datacl::text)) FROM pg_database;
SELECT json_build_array('setting', concat_ws(' in ', nullif(setrole, 0)::regrole, datname), setconfig)
  FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase;
"""
_EACH = """
SET search_path = pg_catalog;
SELECT json_build_array('extension', extname, extversion) FROM pg_extension;
SELECT json_build_array('sequence', format('%I.%I', schemaname, sequencename),
  json_build_array(last_value, increment_by)) FROM pg_sequences;
SELECT json_build_array('relation', c.oid::regclass::text,
  json_build_array(relkind, pg_get_userbyid(relowner), relacl::text, md5(coalesce(
    (SELECT string_agg(concat_ws(',', attname, format_type(atttypid, atttypmod), attnotnull, attacl::text), ';'
     ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), ''))))
  FROM pg_class c WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace
    WHERE nspname IN ('pg_catalog', 'information_schema') OR nspname LIKE 'pg_toast%' OR nspname LIKE 'pg_temp%');
SELECT json_build_array('schema', nspname, json_build_array(pg_get_userbyid(nspowner), nspacl::text))
  FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)';
SELECT json_build_array('functions', 'all', json_build_array(count(*), md5(coalesce(
  string_agg(md5(concat_ws(',', oid::regprocedure, prosrc, proacl::text)), '' ORDER BY oid::regprocedure::text), ''))))
  FROM pg_proc
  WHERE pronamespace <> 'pg_catalog'::regnamespace;
SELECT json_build_array('defaults', 'all', md5(coalesce(string_agg(concat_ws(',',
  pg_get_userbyid(defaclrole), nullif(defaclnamespace, 0)::regnamespace, defaclobjtype, defaclacl::text), ';'
  ORDER BY defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclobjtype), '')))
  FROM pg_default_acl;
SELECT json_build_array('collation', collname, json_build_array(collversion, pg_collation_actual_version(oid)))
  FROM pg_collation WHERE collversion IS NOT NULL AND collversion IS DISTINCT FROM pg_collation_actual_version(oid);
SELECT json_build_array('large objects', 'all', json_build_array(count(*), md5(coalesce(
  string_agg(concat_ws(',', oid, lomowner, lomacl::text), ';' ORDER BY oid), '')))) FROM pg_largeobject_metadata;
"""
_DATABASE_COLLATION = """
SELECT json_build_array('database collation', 'version', json_build_array(datcollversion,
  pg_database_collation_actual_version(oid))) FROM pg_database WHERE datname = current_database();
"""
_LARGE_OBJECTS = """
SELECT json_build_array('large object data', 'all', json_build_array(count(*), coalesce(
  sum(hashtextextended(concat_ws(',', loid, pageno, encode(data, 'hex')), 0)::numeric), 0)::text)) FROM pg_largeobject;
"""


def rows(*, hashed: bool) -> str:
    """Return SQL for psql that answers with a line for every table: its count of rows, and a hash of them all.

    Every row as text, hashed, summed: the order of the rows makes no difference, and nothing is sorted.
    """
    value = "coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text" if hashed else "NULL"
    return f"""
SELECT format('SELECT json_build_array(''rows'', %L, json_build_array(count(*), {value})) FROM ONLY %s t',
              c.oid::regclass::text, c.oid::regclass::text)
  FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
  WHERE relkind IN ('r', 'm') AND relpersistence <> 't' AND nspname <> 'information_schema' AND nspname !~ '^pg_'
\\gexec
"""


def content(server: Server, *, full: bool, timeout: float = 3600) -> Content:
    """Return what a server holds: database ("*" for what all share) -> kind -> name -> value.

    `full`: with the count and a hash of every table's rows and of the large objects; it reads everything.
    """
    version = int(server.ask("SELECT to_json(current_setting('server_version_num')::int)"))
    each = (
        _EACH
        + (_DATABASE_COLLATION if version >= 150000 else "")
        + (rows(hashed=True) + _LARGE_OBJECTS if full else "")
    )
    names = server.ask("SELECT json_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn")
    found = {name: collect(server.script(each, name, timeout)) for name in names}
    return {_CLUSTER: collect(server.script(_SHARED, timeout=timeout)), **found}


def collect(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return kind -> name -> value of lines that hold JSON arrays of the three."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line.startswith("["):
            kind, name, value = json.loads(line)
            found.setdefault(kind, {})[name] = value
    return found


def differences(before: Content, after: Content) -> list[str]:
    """Return what differs, a sentence each; none if `after` has what `before` had. Sequences may be a little ahead."""
    found = []
    for database in sorted({*before, *after}):
        old, new = before.get(database, {}), after.get(database, {})
        where = "" if database == _CLUSTER else f" in {database}"
        for kind in sorted({*old, *new}):
            found += _differing(kind, old.get(kind, {}), new.get(kind, {}), where)
    return found


def _differing(kind: str, old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> list[str]:
    found = []
    for name in sorted({*old, *new}):
        what = f"{kind} {name}{where}"
        if name not in new:
            found.append(f"{what} is missing")
        elif name not in old:
            found.append(f"{what} is new")
        elif not (_near(old[name], new[name]) if kind == "sequence" else old[name] == new[name]):
            found.append(f"{what} was {json.dumps(old[name])}, is {json.dumps(new[name])}")
    return found


def _near(old: Any, new: Any) -> bool:
    (before, step), (after, step_now) = old, new
    if None in (before, after) or step != step_now:
        return bool(old == new)
    ahead: float = (after - before) / step
    return 0 <= ahead <= SEQUENCE_AHEAD


def compare(source: Server, target: Server) -> list[str]:
    """Return what differs between two running servers, every row included."""
    return differences(content(source, full=True), content(target, full=True))


def check_structure(server: Server, timeout: float = 3600) -> bool | None:
    """Run pg_amcheck on all databases; returns None where the image has none. Raises MoveError `damaged`.

    What it installs for that is dropped again.
    """
    lacking = [name for name in _databases(server) if not _has_amcheck(server, name)]
    asked = server.program("pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--no-strict-names")
    try:
        done = server.host.run(asked, timeout=timeout, check=False)
    finally:
        for name in lacking:
            server.script("DROP EXTENSION IF EXISTS amcheck;", name)
    said = (done.err or done.out).strip()
    if done.status in (126, 127) or 'extension "amcheck" is not available' in said:
        return None
    if done.status:
        raise MoveError("damaged", f"pg_amcheck on {server.host.name} found damage: {said[-600:]}")
    return True


def _databases(server: Server) -> list[str]:
    found: list[str] = server.ask("SELECT json_agg(datname) FROM pg_database WHERE datallowconn")
    return found


def _has_amcheck(server: Server, database: str) -> bool:
    return bool(server.ask("SELECT to_json(count(*)) FROM pg_extension WHERE extname = 'amcheck'", database))
