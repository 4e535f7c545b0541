"""Images of the lab: a Debian base, the hosts, the registry, the estate's workloads. Built once, then found."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab.engine import Engine, install
from lab.run import LabError, run, step
from lab.settings import DEBIAN_RELEASES, Settings

IMAGES = Path(__file__).resolve().parent / "images"
#: Workload images run on one Debian release, whatever the hosts run: the estate must not change with the host.
WORKLOAD_DEBIAN = "trixie"
WORKLOADS = ("app", "postgres", "redis")
#: What the units that move run (units.py).
UNIT_WORKLOADS = ("unit-postgres", "unit-redis", "unit-app")
#: Its Redis is 6.0: an append-only file is one file, and writes can't be paused alone, nor the pause be lifted.
OLD_REDIS_DEBIAN = "bullseye"
#: A package manager that can't resolve names may eat memory without end (seen: 24 GB); a bound makes that an error.
BUILD_MEMORY = "2g"


def base(engine: Engine, release: str) -> str:
    """Return the Debian base image, made with debootstrap where no image is there and this machine is a Debian."""
    official = f"debian:{release}"
    if engine.exists("image", official):
        return official
    made = f"evenkeel-lab/debian:{release}"
    if engine.exists("image", made):
        return made
    if not shutil.which("apt-get"):
        with step(f"pull {official}"):
            engine.docker("pull", "-q", official)
        return official
    if not shutil.which("debootstrap"):
        install(["debootstrap"])
    with step(f"make a Debian {release} base with debootstrap"), tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        run(["debootstrap", "--variant=minbase", "--include=ca-certificates,python3", release, root], timeout=1200)
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        for directory in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / directory)
            (root / directory / "partial").mkdir(parents=True)
        tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
        try:
            imported = subprocess.run(
                ["docker", "import", "-", made],
                stdin=tar.stdout,
                env=engine.environment,
                capture_output=True,
                check=False,
            )
        finally:
            if tar.stdout:
                tar.stdout.close()
            tar.wait()
        if imported.returncode or tar.returncode:
            raise LabError(f"docker import failed: {imported.stderr.decode(errors='replace')[-500:]}")
    return made


def host(engine: Engine, settings: Settings) -> str:
    """Return the image of a lab host for the settings' Debian release."""
    release = settings.debian
    return build(
        engine, f"host-{release}", IMAGES / "host", release, arguments={"DOCKER_PACKAGES": DEBIAN_RELEASES[release]}
    )


def virtual_machine(engine: Engine, settings: Settings) -> str:
    """Return the image whose root file system becomes the virtual machine's disk: a lab host with a kernel."""
    return build(
        engine, f"vm-{settings.debian}", IMAGES / "vm", settings.debian, arguments={"BASE": host(engine, settings)}
    )


def registry(engine: Engine) -> str:
    """Return the image of the lab's registry."""
    return build(engine, "registry", IMAGES / "registry", WORKLOAD_DEBIAN)


def workloads(engine: Engine) -> dict[str, str]:
    """Return workload name -> image."""
    folder = IMAGES / "workload"
    return {name: build(engine, name, folder, WORKLOAD_DEBIAN, target=name) for name in WORKLOADS}


def unit_workloads(engine: Engine) -> dict[str, str]:
    """Return the images of the units that move, by name."""
    folder = IMAGES / "unit"
    return {name: build(engine, name, folder, WORKLOAD_DEBIAN, target=name) for name in UNIT_WORKLOADS}


def old_redis(engine: Engine) -> dict[str, str]:
    """Return the image of a Redis before 6.2, by name."""
    built = build(engine, "old-redis", IMAGES / "unit", OLD_REDIS_DEBIAN, target="unit-redis")
    return {"old-redis": built}


def remove(engine: Engine) -> None:
    """Remove the images that this module made, from an engine that is the machine's own."""
    made = engine.docker("image", "ls", "-q", "--filter", "reference=evenkeel-lab/*").split()
    if made:
        engine.docker("rmi", "-f", *dict.fromkeys(made))


def fingerprint(arguments: object, *folders: Path) -> str:
    """Return twelve hexadecimal digits that change with the arguments and with any file in the folders."""
    content = hashlib.sha256(repr(arguments).encode())
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                content.update(file.name.encode() + file.read_bytes())
    return content.hexdigest()[:12]


def build(
    engine: Engine,
    name: str,
    folder: Path,
    release: str,
    *,
    arguments: dict[str, str] | None = None,
    target: str | None = None,
) -> str:
    """Build an image unless one from exactly these files and arguments is there. The tag carries their hash."""
    from_image = base(engine, release)
    arguments = {"BASE": from_image, **(arguments or {})}
    image = f"evenkeel-lab/{name}:{fingerprint((sorted(arguments.items()), target), folder)}"
    if engine.exists("image", image):
        return image
    proxies = [name for name in ("http_proxy", "https_proxy", "no_proxy") if os.environ.get(name)]
    options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    options += [f"--build-arg={name}" for name in proxies]
    options += [f"--target={target}"] if target else []
    with step(f"build the image {name} ({release})"):
        # The classic builder is in every engine; BuildKit needs a client plugin that may be missing.
        engine.environment["DOCKER_BUILDKIT"] = "0"
        engine.docker("build", "-q", f"--memory={BUILD_MEMORY}", *options, "-t", image, folder, timeout=1200)
    return image
