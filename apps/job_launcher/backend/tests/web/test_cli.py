# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.web.harness import WORD, Who
from tests.web.process import Launched, command, environment, process

NEW = "an entirely new one"


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    with process(tmp_path_factory.mktemp("cli"), {"log_poll_interval": 250, "status_report_wait": 0.3}) as found:
        yield found


@pytest.fixture(scope="module")
def token(launcher: Launched) -> str:
    return launcher.token("ada").headers["Authorization"].partition(" ")[2]


def login(launcher: Launched, name: str, word: str) -> int:
    return Who(launcher.port).post("/api/login", {"name": name, "password": word}).status


def test_users_are_made_listed_and_given_passwords_beside_a_running_server(launcher: Launched) -> None:
    assert launcher.cli("user", "add", "nora", "--role", "viewer", feed=WORD + "\n").returncode == 0
    assert login(launcher, "nora", WORD) == 200
    assert "nora\tviewer\t" in launcher.cli("user", "list").stdout
    session = Who(launcher.port).post("/api/login", {"name": "nora", "password": WORD})
    (launcher.root / "new").write_text(NEW)
    changed = launcher.cli("user", "passwd", "nora", "--password-file", str(launcher.root / "new"))
    assert (changed.returncode, changed.stdout, changed.stderr) == (0, "", "")
    assert (login(launcher, "nora", WORD), login(launcher, "nora", NEW)) == (401, 200)
    assert Who(launcher.port, {"Cookie": session.cookie}).get("/api/me").status == 401


@pytest.mark.parametrize(
    ("arguments", "feed", "field"),
    [
        (("user", "add", "ada"), WORD, "name"),
        (("user", "add", "Nora"), WORD, "name"),
        (("user", "add", "nina"), "short", "password"),
        (("user", "passwd", "nobody"), WORD, "name"),
        (("user", "token", "nobody"), "", "name"),
        (("user", "token", "ada", "--days", "0"), "", "--days"),
    ],
)
def test_what_is_wrong_is_named(launcher: Launched, arguments: tuple[str, ...], feed: str, field: str) -> None:
    found = launcher.cli(*arguments, feed=feed)
    assert found.returncode == 2
    assert found.stderr.startswith(f"job-launcher: {field}: ")
    assert "Traceback" not in found.stderr
    assert not feed or feed not in found.stderr


def test_no_option_takes_a_secret(launcher: Launched) -> None:
    for arguments in (("user", "add"), ("user", "passwd"), ("run",), ("serve",)):
        shown = launcher.cli(*arguments, "--help").stdout
        assert "--password " not in shown
        assert "--token " not in shown


def test_a_run_from_start_to_export(launcher: Launched, token: str) -> None:
    done = launcher.cli("run", "hello", "--total", "2", "--wait", JOB_LAUNCHER_TOKEN=token)
    assert done.returncode == 0, done.stderr
    run_id = done.stderr.strip()
    assert done.stdout.count("|hello\n") == 2
    (launcher.root / "token").write_text(token + "\n")
    tail = launcher.cli("tail", run_id, "--token-file", str(launcher.root / "token"))
    assert tail.stdout == done.stdout
    assert (
        launcher.cli("tail", run_id, "--no-follow", "--from", "5", JOB_LAUNCHER_TOKEN=token).stdout == done.stdout[5:]
    )
    runs = [json.loads(line) for line in launcher.cli("export", "runs", JOB_LAUNCHER_TOKEN=token).stdout.splitlines()]
    assert run_id in [run["id"] for run in runs]
    shown = launcher.cli("export", "ledger", "--format", "csv", JOB_LAUNCHER_TOKEN=token).stdout
    assert {"credit", "hold", "capture"} <= {row["kind"] for row in csv.DictReader(io.StringIO(shown))}


def test_a_run_that_is_stopped_is_no_success(launcher: Launched, token: str) -> None:
    who = Who(launcher.port, {"Authorization": f"Bearer {token}"})
    arguments = ("run", "sleep", "--total", "1", "--set", "seconds=50", "--idempotency-key", "once")
    run_id = launcher.cli(*arguments, JOB_LAUNCHER_TOKEN=token).stdout.strip()
    assert who.get(f"/api/runs/{run_id}").json["parameters"] == {"seconds": 50}
    threading.Timer(0.5, lambda: who.post(f"/api/runs/{run_id}/stop", None)).start()
    again = launcher.cli(*arguments, "--wait", JOB_LAUNCHER_TOKEN=token)
    assert (again.returncode, again.stderr.strip()) == (3, run_id), "the same key is the same run"


def test_what_the_server_refuses_is_said(launcher: Launched, token: str) -> None:
    for arguments, said in (
        (("run", "nothing", "--total", "1"), "template"),
        (("run", "sleep", "--total", "1", "--set", "seconds=much"), "parameters.seconds"),
        (("run", "sleep", "--total", "1", "--set", "seconds"), "--set"),
        (("tail", "r_" + "a" * 20), "no such run"),
        (("tail", "../login"), "run_id"),
        (("credit", "nobody", "5", "--reason", "x"), "no such user"),
    ):
        found = launcher.cli(*arguments, JOB_LAUNCHER_TOKEN=token)
        assert (found.returncode, found.stdout) == (2, "")
        assert said in found.stderr
        assert "Traceback" not in found.stderr
    assert "token" in launcher.cli("export", "runs", JOB_LAUNCHER_TOKEN="").stderr
    assert "Unauthorized" in launcher.cli("export", "runs", **{"JOB_LAUNCHER_TOKEN": "wrong"}).stderr


def test_credit_is_given(launcher: Launched, token: str) -> None:
    given = launcher.cli("credit", "otto", "5", "--reason", "test", JOB_LAUNCHER_TOKEN=token)
    assert json.loads(given.stdout)["total_after"] == 1005


def test_the_health_check_follows_the_server(launcher: Launched) -> None:
    assert launcher.cli("healthcheck").returncode == 0
    text = (launcher.root / "config.yml").read_text().replace(str(launcher.port), "1")
    (launcher.root / "other.yml").write_text(text)
    down = launcher.cli("healthcheck", "--config", str(launcher.root / "other.yml"))
    assert down.returncode == 1
    assert "does not answer" in down.stderr


def test_a_second_server_on_the_same_data_is_refused(launcher: Launched) -> None:
    second = launcher.cli("serve")
    assert second.returncode == 2
    assert "in use" in second.stderr
    assert login(launcher, "olga", WORD) == 200


def test_a_port_that_is_taken_is_said(launcher: Launched) -> None:
    text = (launcher.root / "config.yml").read_text().replace("data_dir: data", "data_dir: elsewhere")
    (launcher.root / "taken.yml").write_text(text)
    second = launcher.cli("serve", "--config", str(launcher.root / "taken.yml"))
    assert second.returncode == 2
    assert "job-launcher: listen: " in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_drains_before_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    with process(tmp_path, {"status_report_wait": 0.2}, ["olga"]) as launcher:
        who = launcher.token("olga")
        body = {"template": "sleep", "total": 1, "parameters": {"seconds": 2}}
        run_id = who.post("/api/run", body).json["id"]
        while who.get(f"/api/runs/{run_id}").json["counts"]["running"] == 0:
            time.sleep(0.05)
        launcher.process.send_signal(number)
        while who.get("/readyz").status == 200:
            time.sleep(0.02)
        assert who.get("/healthz").status == 200
        assert who.get("/api/status").json["draining"]
        refused = who.post("/api/run", body)
        assert (refused.status, refused.headers["Content-Type"]) == (503, "application/problem+json")
        assert launcher.process.wait(20) == 0
    with process(tmp_path, names=["olga"]) as launcher:
        who.port = launcher.port
        assert who.get(f"/api/runs/{run_id}").json["status"] == "succeeded", "it was waited for"


def test_a_drain_ends_after_its_time_and_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    for timeout, signals in ((0.5, 1), (40, 2)):
        with process(tmp_path, {"drain_timeout": timeout, "term_grace": 0.2}, ["olga"]) as launcher:
            who = launcher.token("olga")
            run_id = who.post("/api/run", {"template": "sleep", "total": 1, "parameters": {"seconds": 60}}).json["id"]
            while who.get(f"/api/runs/{run_id}").json["counts"]["running"] == 0:
                time.sleep(0.05)
            begun = time.monotonic()
            for _ in range(signals):
                launcher.process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
            assert launcher.process.wait(20) == 0
            assert time.monotonic() - begun < 12


def test_the_log_is_json_lines(launcher: Launched) -> None:
    lines = [json.loads(line) for line in (launcher.root / "stderr").read_text().splitlines()]
    assert lines[0]["message"] == "serving"
    assert {"at", "level", "logger", "message"} <= set(lines[0])
    assert WORD not in json.dumps(lines)


def test_the_demonstration_makes_an_admin_whose_password_is_in_a_file(tmp_path: Path) -> None:
    child = subprocess.Popen(
        command("serve", "--demo", "--data-dir", str(tmp_path / "demo"), "--listen", "127.0.0.1:0"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        said = [child.stdout.readline(), child.stdout.readline()]
        path = tmp_path / "demo" / "admin-password"
        word = path.read_text().strip()
        assert str(path) in said[0]
        assert word not in "".join(said), "it is no terminal"
        assert path.stat().st_mode & 0o777 == 0o600
        port = int(said[1].rpartition(":")[2])
        found = Who(port).post("/api/login", {"name": "admin", "password": word})
        assert (found.status, found.json["user"]["role"]) == (200, "admin")
        who = Who(port, {"Cookie": found.cookie, "X-CSRF-Token": found.json["csrf_token"]})
        assert who.post("/api/run", {"template": "demo", "total": 1, "parameters": {"lines": 1}}).status == 201
    finally:
        child.terminate()
        _, errors = child.communicate(timeout=20)
    assert word not in errors
