"""What is known of a Redis, judged and written down, without one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.companion import alone
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.journal import Journal
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers import redis_companion, redis_state
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.base import Options, Place
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_pause import Pause
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.movers.redis_servers import Servers
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.on_host import redis_server

VOLUMES = {"data": "/data"}


def explored(**changes: Any) -> dict[str, Any]:
    config = {
        "dir": "/data",
        "save": "3600 1",
        "appendonly": "no",
        "dbfilename": "dump.rdb",
        "appendfilename": "appendonly.aof",
        "appenddirname": "appendonlydir",
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "databases": "16",
    }
    info = {"role": "master", "redis_version": "7.4.1", "used_memory": "1000", "connected_slaves": "0"}
    return {
        "port": 6379,
        "startup": {},
        "info": {**info, **changes.pop("info", {})},
        "config": {**config, **changes.pop("config", {})},
        "modules": [],
        "files": {"dump.rdb": 10},
        "shell": None,
        **changes,
    }


def codes(found: dict[str, Any], limit: int | None = None) -> dict[str, bool]:
    traps = redis_state.traps(found, VOLUMES, limit=limit, password_env=None)
    return {trap.code: trap.refuses for trap in traps}


@pytest.mark.parametrize(
    ("found", "limit", "expected"),
    [
        (explored(), None, {}),
        (explored() | {"info": None}, None, {"password_unknown": True}),
        (explored() | {"config": None}, None, {"config_refused": True}),
        (explored() | {"shell": "sh"}, None, {"shell_swallows_stop": False}),
        (explored(config={"save": ""}), None, {"not_persistent": False}),
        (explored(config={"save": "", "appendonly": "yes"}), None, {}),
        (explored(info={"role": "slave"}), None, {"not_primary": True}),
        (explored(info={"redis_mode": "cluster"}), None, {"not_standalone": True}),
        (explored(info={"redis_version": "6.0.16"}), None, {"whole_pause": False}),
        (explored(info={"redis_version": "6.2.0"}), None, {}),
        (explored(info={"connected_slaves": "2"}), None, {"other_replicas": False}),
        (explored(config={"dir": "/"}), None, {"data_outside_volume": True}),
        (explored(config={"dir": "/database"}), None, {"data_outside_volume": True}),
        (explored(files={"users.acl": 3, "temp-1.rdb": 1}), None, {"foreign_files": True}),
        (explored(files={"appendonlydir/appendonly.aof.1.base.rdb": 3}), None, {}),
        (explored(startup={"appendonly": [["yes"]]}), None, {"changed_at_run_time": True}),
        (explored(modules=[{"name": "vectorset", "path": ""}]), None, {}),
        (explored(modules=[{"name": "search"}]), None, {"modules": True}),
        (explored(config={"min-replicas-to-write": "1"}), None, {"min_replicas": True}),
        (explored(), 999, {"memory_limit": True}),
        (explored(config={"maxmemory": "5000"}), 2000, {"maxmemory_over_limit": False}),
        (explored(config={"maxmemory": "5", "maxmemory-policy": "allkeys-lru"}), 2000, {"evicts": False}),
    ],
)
def test_traps(found: dict[str, Any], limit: int | None, expected: dict[str, bool]) -> None:
    assert codes(found, limit) == expected


def test_a_companion_is_a_replica_by_its_configuration_alone() -> None:
    found, password = explored(config={"appendonly": "yes"}), 'pa"s \\s'
    text = redis_state.companion_config(found, primary="tasks.redis", password=password, directory="/data")
    lines = text.splitlines()
    assert "replicaof tasks.redis 6379" in lines
    assert "replica-read-only yes" in lines
    assert "bind 127.0.0.1" in lines
    assert "appendonly yes" in lines
    assert 'save ""' in lines
    assert r'masterauth "pa\"s \\s"' in lines
    assert r'requirepass "pa\"s \\s"' in lines


def test_an_old_server_is_not_bound_to_itself_as_it_could_not_reach_its_primary() -> None:
    found = explored(info={"redis_version": "6.0.16"})
    text = redis_state.companion_config(found, primary="tasks.redis", password=None, directory="/data")
    assert "bind" not in text
    assert "auth" not in text


@pytest.mark.parametrize(
    ("before", "after", "taking_writes", "wrong"),
    [
        ({"db0": (5, 2)}, {"db0": (5, 2)}, False, 0),
        ({"db0": (5, 2)}, {"db0": (4, 1)}, False, 0),  # one expired
        ({"db0": (5, 2)}, {"db0": (4, 2)}, False, 1),
        ({"db0": (5, 2), "db1": (1, 0)}, {"db0": (5, 2)}, True, 1),
        ({"db0": (5, 2)}, {"db0": (6, 2)}, False, 1),
        ({"db0": (5, 2)}, {"db0": (6, 2)}, True, 0),
        ({}, {}, False, 0),
    ],
)
def test_differences_of_databases(before: Any, after: Any, taking_writes: bool, wrong: int) -> None:
    assert len(redis_state.differences(before, after, taking_writes=taking_writes)) == wrong


def test_what_a_server_loaded_counts_whatever_clients_did_since() -> None:
    before = {"db0": (10, 3), "db1": (2, 0)}
    # A worker has emptied queues already: the databases hold less, and nothing is lost.
    assert redis_state.lost_at_load(before, {"rdb_last_load_keys_loaded": "8", "rdb_last_load_keys_expired": "1"}) == []
    [lost] = (
        redis_state.lost_at_load(before, {"rdb_last_load_keys_loaded": "8", "rdb_last_load_keys_expired": "0"}) or []
    )
    assert "loaded 8 keys, and 9 that don't expire" in lost
    assert redis_state.lost_at_load(before, {"rdb_last_load_keys_loaded": "8"}) is None


def test_keyspace_is_read_from_info() -> None:
    info = redis_server.parse_info("# Keyspace\r\ndb0:keys=12,expires=3,avg_ttl=0\r\ndb11:keys=1,expires=0\r\n")
    assert redis_state.keyspace(info) == {"db0": (12, 3), "db11": (1, 0)}


@pytest.mark.parametrize(
    ("argv", "environment", "passwords"),
    [
        (["docker-entrypoint.sh", "redis-server", "--requirepass", "a b"], {}, ["a b"]),
        (["redis-server", "--requirepass=x"], {}, ["x"]),
        (["/bin/sh", "-c", 'redis-server --requirepass "$PW" && true'], {"PW": "it's $5"}, ["it's $5"]),
        (["sh", "-c", "exec redis-server --requirepass ${PW} --save 60 1"], {"PW": "x"}, ["x"]),
        (["sh", "-c", 'redis-server --requirepass "$(cat /run/secrets/pw)"'], {}, ["from a file"]),
        (["redis-server", "/etc/redis.conf"], {}, ["in conf"]),
        (["redis-server", "/etc/redis.conf", "--requirepass", "last"], {}, ["last"]),
        (["redis-server"], {"REDIS_PASSWORD": "env"}, ["env"]),
        (["sh", "-c", 'umask 077; exec "$@"', "sh", "redis-server", "--requirepass", "x"], {}, ["x"]),
        (alone("/data", ["redis-server", "/etc/redis.conf"]), {}, ["in conf"]),
        (["something", "else"], {}, []),
        (["sh", "-c", "redis-server 'unfinished"], {}, []),
    ],
)
def test_where_a_password_stands(argv: list[str], environment: dict[str, str], passwords: list[str]) -> None:
    files = {"/run/secrets/pw": "from a file\n", "/etc/redis.conf": '# a comment\nport 7000\nrequirepass "in conf"\n'}
    settings = redis_server.startup_settings(argv, environment, files.get)
    assert redis_server.candidates(settings, environment) == passwords


def test_the_members_variable_comes_first() -> None:
    assert redis_server.candidates({}, {"REDIS_PASSWORD": "a", "MINE": "b"}, "MINE") == ["b", "a"]


def test_settings_of_a_command_line_beat_the_file() -> None:
    settings = redis_server.startup_settings(
        ["redis-server", "/c", "--port", "7001", "--save", "60", "1", "--save", "300", "10"],
        {},
        {"/c": "port 7000\ndir /data\n"}.get,
    )
    assert settings["port"] == [["7001"]]
    assert settings["dir"] == [["/data"]]
    assert settings["save"] == [["60", "1"], ["300", "10"]]


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("7:S 22 Nov * Ready", "its log says nothing$"),
        ("7:S 22 Nov # Failed opening the RDB file", "Failed opening the RDB file$"),
        ("7:S 22 Nov # Error condition on socket for SYNC: No route to host", "No route to host; look at the link"),
        ("7:S 22 Nov # Unable to connect to MASTER: Invalid argument", "Invalid argument; look at the link"),
    ],
)
def test_a_replica_that_is_stuck_says_why_it_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, log: str, said: str
) -> None:
    host = SimpleNamespace(run=lambda *_argv, **_options: SimpleNamespace(out=f"{log}\n", err=""))
    place = SimpleNamespace(name="kvm2", host=host, root="/docker")

    def info(_place: Any, _container: str) -> None:
        raise MoveError("call_failed", "the server wants a password")

    servers = SimpleNamespace(
        move=SimpleNamespace(cluster=None, journal=None),
        part=SimpleNamespace(service="cache"),
        volume=SimpleNamespace(name="data", path=lambda _place: "/parked"),
        companion=lambda _place: "evenkeel-cache",
        companion_container=lambda _place: "c1",
        companion_running=lambda _place: "c1",
        info=info,
    )
    monkeypatch.setattr(redis_companion, "STUCK", 0)
    monkeypatch.setattr(redis_companion, "require_room", lambda *_arguments: None)
    monkeypatch.setattr(redis_companion, "end_orphans", lambda *_arguments: [])
    companion = redis_companion.Companion(cast(Servers, servers), cast(Place, place), cast(Place, place))
    with pytest.raises(MoveError, match=f"the server wants a password; .*{said}"):
        companion.wait_for_link(lambda **_numbers: None)


def rdb(*fields: tuple[bytes, bytes]) -> bytes:
    def text(value: bytes) -> bytes:
        return bytes([len(value)]) + value

    return b"REDIS0011" + b"".join(b"\xfa" + text(name) + value for name, value in fields) + b"\xfe\x00"


def test_a_saved_file_says_which_position_it_is_of() -> None:
    replid = b"\x28" + b"a" * 40
    version = (b"redis-ver", b"\x057.0.1")
    for number, offset in (
        (b"\xc0\x0e", 14),
        (b"\xc1\xe8\x03", 1000),
        (b"\xc2\x40\x42\x0f\x00", 1_000_000),
        (b"\x0212", 12),
    ):
        assert redis_server.position(rdb(version, (b"repl-id", replid), (b"repl-offset", number))) == {
            "replid": "a" * 40,
            "offset": offset,
        }
    assert redis_server.position(rdb(version)) is None
    assert redis_server.position(b"") is None


def syncing(total: str) -> dict[str, str]:
    return {"master_sync_in_progress": "1", "master_sync_total_bytes": total}


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (
            {"master_sync_in_progress": "1", "master_sync_total_bytes": "100", "master_sync_left_bytes": "75"},
            (25, 100, 30.0),
        ),
        ({"master_sync_in_progress": "1", "master_sync_total_bytes": "-1"}, (None, None, None)),
        ({"loading": "1", "loading_loaded_bytes": "7"}, (7, None, None)),
        ({}, (None, None, None)),
    ],
)
def test_progress_of_a_sync(info: dict[str, str], told: tuple[Any, ...]) -> None:
    numbers = redis_companion.sync_progress(info, 10)
    assert (numbers.get("bytes"), numbers.get("total"), numbers.get("eta")) == told


@pytest.mark.parametrize(
    ("container", "at", "holds"), [("c1", 110.0, True), ("c2", 110.0, False), ("c1", 170.0, False)]
)
def test_an_old_server_that_is_paused_is_asked_nothing(container: str, at: float, holds: bool, tmp_path: Path) -> None:
    """It would not answer, and a question that hangs would end the switch."""
    journal = Journal("shop", "switch", tmp_path)
    token = {"container": "c1", "until": 280.0, "boot": "b", "replid": "r", "saved": True}
    journal.write("redis_token", part="redis", source="kvm4", **token)
    host = SimpleNamespace(call=lambda _module, _function: {"at": at, "boot": "b"})
    place = SimpleNamespace(name="kvm4", host=host)
    move = SimpleNamespace(source=place, target=place, journal=journal, options=Options(deadline=120))
    part = SimpleNamespace(key="redis", service="cache")
    servers = SimpleNamespace(move=move, part=part, running=lambda _place: container)
    pause = Pause(cast(Servers, servers))
    assert pause.holds() is holds
    pause.lift()
    assert not pause.holds()


@pytest.mark.parametrize(
    ("marks", "counts"),
    [
        ([], True),
        # Killed and run again: the watcher is armed anew.
        (["fenced"], True),
        (["promotion_intended"], True),
        # Given back, clients wrote again.
        (["unfenced"], False),
        (["unfenced", "fenced"], False),
        # Forth and back, and forth again.
        (["promotion_intended", "fenced", "promotion_intended", "fenced"], False),
    ],
)
def test_a_pause_of_an_earlier_fence_proves_nothing_of_a_server_that_is_gone(
    marks: list[str], counts: bool, tmp_path: Path
) -> None:
    """A redeploy ends it once its data are parked. What it took since the pause of then is in no proof."""
    journal = Journal("shop", "switch", tmp_path)
    journal.write("fenced")
    about = {"container": "c1", "until": 280.0, "boot": "b", "replid": "r", "offset": 7, "saved": False}
    journal.write("redis_token", part="redis", source="kvm4", **about, appends=True)
    journal.write("redis_appended", part="redis", replid="r", offset=7, node="kvm4")
    journal.write("redis_held", part="redis", container="c1", until=280.0)
    for mark in marks:
        journal.write(mark)
    place = SimpleNamespace(name="kvm4", host=None)
    move = SimpleNamespace(source=place, target=place, journal=journal, options=Options())
    servers = SimpleNamespace(
        move=move,
        part=SimpleNamespace(key="redis", service="cache"),
        running=lambda _place: None,
        volume=SimpleNamespace(parked=lambda _place: True),
    )
    pause = Pause(cast(Servers, servers))
    if counts:
        assert pause.holds()
        pause.refuse_not_held()
        pause.refuse_incomplete()
    else:
        with pytest.raises(MoveError, match="does not run"):
            pause.holds()
        with pytest.raises(MoveError, match="not paused"):
            pause.refuse_not_held()
        assert not pause.copy_saved()
