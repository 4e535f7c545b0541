"""From a unit's inventory to its parts, on plain data."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration import discover, image
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.errors import MoveError
from ansible_collections.evenkeel.swarm.plugins.module_utils._migration.model import Member, Unit


def spec(name: str = "a", reference: str = "app:1", **more: Any) -> dict[str, Any]:
    mounts = [
        {"Type": "volume", "Source": source, "Target": target} for source, target in more.pop("volumes", {}).items()
    ]
    labels = more.pop("labels", {})
    container = {"Image": reference, "Mounts": mounts, **more}
    return {
        "Name": name,
        "Labels": labels,
        "TaskTemplate": {"ContainerSpec": container},
        "Mode": {"Replicated": {"Replicas": 1}},
    }


def unit(*patterns: str) -> Unit:
    return Unit("saleor", "kvm4", "kvm2", tuple(Member(pattern) for pattern in patterns))


SPECS = {name: spec(name) for name in ("shop-saleorpg-x1y2z3", "shop-saleorapi-a1b2c3", "crm-api-q1w2e3")}
SPECS["evenkeel-saleor-pg-kvm2"] = spec("evenkeel-saleor-pg-kvm2", labels={"evenkeel.migration": "saleor"})


def test_members_match_one_service_each_and_never_a_companion() -> None:
    assert discover.match_members(unit("*saleorpg-*", "shop-saleorapi-a1b2c3"), SPECS) == [
        "shop-saleorpg-x1y2z3",
        "shop-saleorapi-a1b2c3",
    ]
    assert discover.match_members(unit("*saleor*pg-*"), SPECS) == ["shop-saleorpg-x1y2z3"]


@pytest.mark.parametrize(
    ("patterns", "code", "field", "said"),
    [
        (["shop-*"], "several_services", "members[0].service", "matches shop-saleorapi-a1b2c3, shop-saleorpg-x1y2z3"),
        (["*pg-*", "shop-saleorap"], "no_service", "members[1].service", "nearest: shop-saleorapi-a1b2c3"),
        (["zzz"], "no_service", "members[0].service", "there are crm-api-q1w2e3"),
        (["*pg-*", "*saleorpg*"], "service_twice", "members[1].service", "both the service shop-saleorpg-x1y2z3"),
    ],
)
def test_what_is_wrong_with_members_is_named(patterns: list[str], code: str, field: str, said: str) -> None:
    with pytest.raises(MoveError, match=said.replace("[", r"\[")) as error:
        discover.match_members(unit(*patterns), SPECS)
    assert (error.value.code, error.value.field) == (code, field)


@pytest.mark.parametrize(
    ("reference", "command", "kind"),
    [
        ("postgres:17", None, "postgres"),
        ("docker.io/library/postgres@sha256:00", None, "postgres"),
        ("registry:5000/team/postgis:16-3", None, "postgres"),
        ("timescale/timescaledb-ha:pg16", None, "postgres"),
        ("pgvector/pgvector:pg17", None, "postgres"),
        ("redis:7", None, "redis"),
        ("valkey/valkey:8", None, "redis"),
        ("redis", None, "redis"),
        ("my/image", ["sh", "-c", "redis-server --requirepass x"], "redis"),
        ("my/image", ["/usr/lib/postgresql/17/bin/postgres", "-D", "/d"], "postgres"),
        ("quay.io/prometheuscommunity/postgres-exporter:1", None, "app"),
        ("redis/redisinsight:2", None, "app"),
        ("postgrest/postgrest", None, "app"),
        ("postgres:17", ["sh", "-c", "pg_dump shop > /backup"], "app"),
    ],
)
def test_kind_by_name(reference: str, command: list[str] | None, kind: str) -> None:
    assert discover.kind_by_name(spec("a", reference, Command=command)) == kind


@pytest.mark.parametrize(
    ("member", "made", "processes", "kind"),
    [
        (Member("a", kind="redis"), spec("a", "postgres:17"), ["postgres"], "redis"),
        (Member("a"), spec("a", "x", labels={"evenkeel.kind": "postgres"}), ["init"], "postgres"),
        (Member("a"), spec("a", "x", Labels={"evenkeel.kind": "app"}), ["redis-server"], "app"),
        (Member("a"), spec("a", "redis:7"), ["redis-server"], "redis"),
        (Member("a"), spec("a", "redis:7"), None, "redis"),
        (Member("a"), spec("a", "shop"), ["python3"], "app"),
    ],
)
def test_kind_is_declared_or_seen_or_guessed_in_that_order(
    member: Member, made: dict[str, Any], processes: list[str] | None, kind: str
) -> None:
    assert discover._kind("members[0]", member, made, processes) == kind


@pytest.mark.parametrize(
    ("reference", "processes", "code"),
    [("postgres:17", ["sleep"], "kind_unclear"), ("omnibus", ["ruby", "redis-server"], "kind_unclear")],
)
def test_what_contradicts_itself_must_be_declared(reference: str, processes: list[str], code: str) -> None:
    with pytest.raises(MoveError, match="set its `kind`") as error:
        discover._kind("members[3]", Member("a"), spec("a", reference), processes)
    assert (error.value.code, error.value.field) == (code, "members[3].kind")


def test_an_unknown_label_is_an_error() -> None:
    with pytest.raises(MoveError, match="must be one of postgres, redis, app"):
        discover._kind("members[0]", Member("a"), spec("a", "x", labels={"evenkeel.kind": "mysql"}), None)


def test_parts_in_member_order_with_shared_files_after_their_last_user() -> None:
    members = [Member(name) for name in ("pg", "api", "worker", "ui")]
    specs = [
        spec("pg", volumes={"pg.data": "/var/lib/postgresql/data", "dumps": "/backups"}),
        spec("api", volumes={"media": "/app/media"}),
        spec("worker", volumes={"media": "/media"}),
        spec("ui"),
    ]
    kinds = {"pg": "postgres", "api": "app", "worker": "app", "ui": "app"}
    parts = discover.assemble(members, specs, kinds)
    assert [(part.key, part.kind, dict(part.volumes), part.users) for part in parts] == [
        ("pg", "postgres", {"pg.data": "/var/lib/postgresql/data"}, ("pg",)),
        ("files-dumps", "files", {"dumps": "/backups"}, ("pg",)),
        ("api", "app", {}, ()),
        ("worker", "app", {}, ()),
        ("files-media", "files", {"media": "/app/media"}, ("api", "worker")),
        ("ui", "app", {}, ()),
    ]
    assert parts[4].service == "api"


def test_pgdata_says_which_volume_is_the_servers() -> None:
    made = spec("pg", volumes={"a": "/one", "b": "/two"}, Env=["PGDATA=/two/pgdata"])
    [pg, files] = discover.assemble([Member("pg")], [made], {"pg": "postgres"})
    assert (pg.volumes, files.volumes) == ({"b": "/two"}, {"a": "/one"})


@pytest.mark.parametrize(
    ("specs", "kinds", "code"),
    [
        ([spec("pg", volumes={"a": "/one", "b": "/two"})], {"pg": "postgres"}, "volume_unclear"),
        (
            [spec("r", volumes={"d": "/data"}), spec("a", volumes={"d": "/d"})],
            {"r": "redis", "a": "app"},
            "volume_shared",
        ),
    ],
)
def test_volumes_that_cannot_be_told_apart(specs: list[dict[str, Any]], kinds: dict[str, str], code: str) -> None:
    with pytest.raises(MoveError) as error:
        discover.assemble([Member(each["Name"]) for each in specs], specs, kinds)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("postgres", "postgres"),
        ("postgres:17", "postgres"),
        ("registry:5000/a/b", "registry:5000/a/b"),
        ("registry:5000/a/b:1.2@sha256:00", "registry:5000/a/b"),
        ("a/b@sha256:00", "a/b"),
    ],
)
def test_repository(reference: str, name: str) -> None:
    assert image.repository(reference) == name


@pytest.mark.parametrize(
    ("reference", "digests", "expected"),
    [
        ("shop:1", ["shop@sha256:aa"], "shop:1@sha256:aa"),
        ("shop:1", ["docker.io/library/shop@sha256:aa"], "shop:1@sha256:aa"),
        ("shop:1", ["other@sha256:aa"], None),
        ("shop:1", [], None),
        ("registry:5000/shop:1@sha256:bb", ["registry:5000/shop@sha256:aa"], "registry:5000/shop:1@sha256:aa"),
    ],
)
def test_the_digest_that_a_registry_gave(reference: str, digests: list[str], expected: str | None) -> None:
    assert image.by_digest(reference, {"RepoDigests": digests}) == expected
