"""Looks for planted secrets in what a move leaves behind: output, journals, command lines, files that others read."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import hosts
from lab.settings import HOSTS, Settings
from lab.units import MOVES, Deployment
from tests.faults.rig import Rig

SAMPLER = Path(__file__).with_name("on_host_sampler.py")
SAMPLES = "/var/lib/lab-samples.jsonl"
UNIT = "lab-sampler"
#: Where on a host a move may put something.
PLACES = "/var/lib/evenkeel /tmp /run/evenkeel* /root/.ansible /root/.ansible_async /etc/systemd/system /run/systemd"


@contextmanager
def sampling(settings: Settings) -> Iterator[None]:
    """Write down the command lines of all processes on both hosts while the block runs."""
    for host in HOSTS:
        hosts.ssh(settings, host, "cat > /run/lab-sampler.py", stdin=SAMPLER.read_text())
        run = f"systemd-run --quiet --collect --unit={UNIT} -p UMask=0077 python3 /run/lab-sampler.py {SAMPLES}"
        hosts.ssh(
            settings, host, f"systemctl stop {UNIT} 2>/dev/null; rm -f {SAMPLES}; date +%s > {SAMPLES}.began; {run}"
        )
    try:
        yield
    finally:
        for host in HOSTS:
            hosts.ssh(settings, host, f"systemctl stop {UNIT}")


def secrets_of(rig: Rig) -> dict[str, str]:
    """Return the unit's planted passwords and those that a move has made for itself, by a name to report."""
    found = {f"{role}'s password": password for role, password in rig.deployed.passwords.items()}
    script = f"""
        for container in $(docker ps -q --filter label={MOVES}={rig.unit}); do
            docker exec $container sh -c 'for f in /run/secrets/*; do [ -f "$f" ] && echo "$f $(cat "$f")"; done'
        done; true"""
    for host in HOSTS:
        for line in hosts.ssh(rig.settings, host, "sh -s", stdin=script).splitlines():
            path, _, content = line.partition(" ")
            # Passwords have no spaces; a file with more is looked for word by word. Directives are none.
            words = [word for word in content.split() if len(word) >= 12 and not re.fullmatch("[a-z.-]+", word)]
            found |= {f"{path} ({number})": word for number, word in enumerate(words)}
    return found


def in_texts(texts: Iterable[tuple[str, str]], secrets: dict[str, str]) -> list[str]:
    """Say which secret stands in which text, as it is or in base64; a text is (where, content)."""
    forms = [
        (name, form)
        for name, secret in secrets.items()
        for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("=")[:-1])
    ]
    return [f"{name} in {where}" for where, content in texts for name, form in forms if form in content]


def own_command(argv: Sequence[str], service: str, deployed: Deployment) -> bool:
    """Return whether a command line is the unit's own Redis, which takes its password as an argument by itself."""
    return service == deployed.service("redis") and argv[:2] == ["redis-server", "--requirepass"]


def find(rig: Rig, secrets: dict[str, str]) -> list[str]:
    """Return every leak on this side and on the hosts since sampling began."""
    texts = [(f"the output of verb={play.verb}", play.log.read_text(errors="replace")) for play in rig.plays]
    found = []
    for host in HOSTS:
        for line in hosts.ssh(rig.settings, host, f"cat {SAMPLES}").splitlines():
            sample = json.loads(line)
            if not own_command(sample["argv"], sample["service"], rig.deployed):
                texts.append((f"argv on {host} ({sample['argv'][0]})", " ".join(sample["argv"])))
        journal = f"journalctl --no-pager -o cat --since=@$(cat {SAMPLES}.began)"
        texts.append((f"the systemd journal of {host}", hosts.ssh(rig.settings, host, journal)))
        moves = "find /var/lib/evenkeel -name '*.jsonl' -exec cat {} + 2>/dev/null; true"
        texts.append((f"a move's journal on {host}", hosts.ssh(rig.settings, host, moves)))
        found += _readable(rig.settings, host, secrets)
    return sorted({*in_texts(texts, secrets), *found})


def _readable(settings: Settings, host: str, secrets: dict[str, str]) -> list[str]:
    """Return files that hold a secret and that others than root may read. The words come through standard input."""
    script = (
        "umask 077; words=$(mktemp -p /dev/shm); cat > $words;"
        f" find {PLACES} -type f -perm /077 -size -5M -exec grep -lFf $words {{}} + 2>/dev/null; rm -f $words; true"
    )
    told = hosts.ssh(settings, host, f"sh -c {shlex.quote(script)}", stdin="\n".join(secrets.values()) + "\n")
    return [f"a secret in {file} on {host}, which others may read" for file in told.splitlines()]
