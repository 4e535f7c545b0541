"""The job launcher: its image for the lab, without a registry of base images; and alone on this machine."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import estate, images
from lab.engine import Engine, connect
from lab.run import LabError, fail, run, say, step
from lab.settings import PROJECT, Settings, from_environment

NAME = "job-launcher"
SOURCE = PROJECT / "apps" / "job_launcher"
BACKEND, FRONTEND = SOURCE / "backend", SOURCE / "frontend"
#: Python of images.WORKLOAD_DEBIAN.
PYTHON = "3.13"


def up(engine: Engine, settings: Settings) -> str:
    """Build the image, push it to the lab's registry, have both hosts pull it; returns image@digest."""
    return estate.push(engine, settings, {NAME: image(engine, settings)})[NAME]


def image(engine: Engine, settings: Settings) -> str:
    """Return the image of these sources; what it needs from registries is fetched by this machine's own pip and npm."""
    cache = settings.project / ".lab" / "launcher"
    context = cache / "context"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(BACKEND, context / "backend", ignore=shutil.ignore_patterns("__pycache__", "tests"))
    shutil.copy(SOURCE / "Dockerfile", context)
    shutil.copytree(wheels(cache), context / "prepared" / "wheels")
    shutil.copytree(page(cache), context / "prepared" / "static")
    (context / "frontend").mkdir()
    (context / "frontend" / "built").write_text("in prepared/static\n")
    base = images.base(engine, images.WORKLOAD_DEBIAN)
    return images.build(
        engine, NAME, context, images.WORKLOAD_DEBIAN, arguments={"NODE_BASE": base, "INPUTS": "prepared"}
    )


def wheels(cache: Path) -> Path:
    """Return a directory with the locked packages for the image's Python, fetched where it is missing."""
    locked = BACKEND / "requirements.txt"
    there = cache / f"wheels-{images.fingerprint(locked.read_bytes())}"
    if not there.exists():
        platforms = [f"--platform=manylinux{each}_{platform.machine()}" for each in ("2014", "_2_17", "_2_28")]
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", f"--python-version={PYTHON}"]
        part = cache / "wheels-part"
        shutil.rmtree(part, ignore_errors=True)
        with step("fetch the launcher's packages"):
            run(
                [sys.executable, "-m", "pip", "download", *options, *platforms, "-r", locked, "-d", part],
                timeout=600,
            )
        part.rename(there)
    return there


def page(cache: Path) -> Path:
    """Return a directory with the built page, built where it is missing, in a copy: the sources stay as they are."""
    if not FRONTEND.is_dir():
        raise LabError(f"{FRONTEND.relative_to(PROJECT)} is missing, and the launcher needs its page")
    ignored = shutil.ignore_patterns("node_modules", "dist", "e2e", "tests")
    copy = cache / "page"
    shutil.rmtree(copy / "src", ignore_errors=True)
    shutil.copytree(FRONTEND, copy, ignore=ignored, dirs_exist_ok=True)
    sources = [path for path in copy.iterdir() if path.name not in ("node_modules", "dist")]
    content = [path.read_bytes() for path in sources if path.is_file()]
    there = cache / f"static-{images.fingerprint(content, *(path for path in sources if path.is_dir()))}"
    if not there.exists():
        if not shutil.which("npm"):
            raise LabError("npm is not installed, and builds the launcher's page: install Node.js 20.19 or newer")
        with step("build the launcher's page"):
            for argv in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
                run(["npm", "--prefix", copy, *argv], timeout=900)
            (copy / "dist").rename(there)
    return there


def alone(settings: Settings, port: int) -> int:
    """Run the launcher with the demo templates until Ctrl-C; returns its exit status. Leaves nothing."""
    static = page(_made(settings.project / ".lab" / "launcher"))
    with tempfile.TemporaryDirectory(prefix="job-launcher-") as data:
        options = [f"--listen=127.0.0.1:{port or _free_port()}", f"--data-dir={data}", f"--static-dir={static}"]
        environment = {**os.environ, "PYTHONPATH": str(BACKEND)}
        # It prints address and first login itself.
        server = subprocess.Popen(
            [sys.executable, "-m", "job_launcher.cli", "serve", "--demo", *options], env=environment
        )
        # Told to this process alone, or by a terminal that is gone: it must not end without its server.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: server.terminate())
        while True:
            try:
                return server.wait()
            except KeyboardInterrupt:
                # The terminal told both. It waits for units that run; a second Ctrl-C ends that.
                say("\nWaiting for what runs; Ctrl-C again doesn't wait.")


def _free_port() -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 8080))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def main() -> int:
    """Run one verb; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab.launcher", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="build the image and put it on the hosts of the lab that LAB_NAME names")
    verb_alone = verbs.add_parser("alone", help="run it on this machine until Ctrl-C")
    verb_alone.add_argument("--port", type=int, default=0, help="default: 8080, or another if that is taken")
    arguments = parser.parse_args()
    try:
        settings = from_environment()
        if arguments.verb == "alone":
            return alone(settings, arguments.port)
        engine = connect(settings, start=False)
        if engine is None:
            raise LabError(f"the lab {settings.name!r} is not up")
        say(up(engine, settings))
    except LabError as error:
        return fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
