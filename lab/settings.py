"""What a lab is made of: names, places, sizes. The only module that reads LAB_* from the environment."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.run import LabError

PROJECT = Path(__file__).resolve().parent.parent
#: Debian release -> packages that carry the Docker engine there (26.1 and 20.10).
DEBIAN_RELEASES = {"trixie": "docker.io docker-cli", "bookworm": "docker.io"}
#: Host name -> its last octet in the lab's network and the vCPUs of the server it stands for.
HOSTS = {"kvm4": (4, 4), "kvm2": (2, 2)}


@dataclass(frozen=True)
class Settings:
    """One lab. load scales the estate's CPU demand: 1 is the seeds' real 26 cores.

    disk: bytes, with suffix, of kvm2's engine's store, which is then in memory; "" leaves it on this machine's disk.
    """

    name: str
    debian: str
    load: float
    disk: str = ""
    project: Path = PROJECT

    @property
    def directory(self) -> Path:
        """State of this lab: keys, ssh_config, what was made."""
        return self.project / ".lab" / self.name

    @property
    def ssh_config(self) -> Path:
        """OpenSSH client configuration that reaches the hosts as `<host>.<lab>`."""
        return self.directory / "ssh_config"

    @property
    def checkout(self) -> str:
        """Short name of this checkout, so that two checkouts on one machine never take each other's labs."""
        return hashlib.sha256(str(self.project).encode()).hexdigest()[:8]

    @property
    def network(self) -> str:
        """Outer Docker network of this lab."""
        return f"evenkeel-{self.checkout}-{self.name}"

    def container(self, host: str) -> str:
        """Outer container that is a host (or the registry)."""
        return f"{self.network}-{host}"


def from_environment(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read LAB_NAME, LAB_DEBIAN, LAB_LOAD, LAB_DISK. Raises LabError naming the variable and what would be right."""
    name = environ.get("LAB_NAME") or "demo"
    if not re.fullmatch(r"[a-z][a-z0-9]{0,19}", name):
        raise LabError(f"LAB_NAME is {name!r}; it must be 1-20 lower-case letters and digits, a letter first")
    debian = environ.get("LAB_DEBIAN") or "trixie"
    if debian not in DEBIAN_RELEASES:
        raise LabError(f"LAB_DEBIAN is {debian!r}; it must be one of {', '.join(DEBIAN_RELEASES)}")
    text = environ.get("LAB_LOAD") or "0.01"
    try:
        load = float(text)
    except ValueError:
        load = -1.0
    if not 0 <= load <= 4:
        raise LabError(f"LAB_LOAD is {text!r}; it must be a number from 0 (idle) over 1 (the seeds' 26 cores) to 4")
    disk = environ.get("LAB_DISK") or ""
    if disk and not re.fullmatch(r"[1-9][0-9]{0,4}[mg]", disk):
        raise LabError(
            f"LAB_DISK is {disk!r}; it must be a size such as 3g or 2500m, or empty for a disk without bound"
        )
    return Settings(name=name, debian=debian, load=load, disk=disk)
