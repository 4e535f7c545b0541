"""Command line of the lab: up, down, status, clean."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace

from lab import estate, hosts, images, swarm, units, vm
from lab.engine import OwnEngine, connect
from lab.run import LabError, fail, say
from lab.settings import HOSTS, Settings, from_environment

ABOUT = """Two real Docker Swarm hosts, kvm4 and kvm2, on this machine.

environment: LAB_NAME (demo) a name of its own for each lab; LAB_DEBIAN (trixie) the hosts' release, trixie or bookworm;
LAB_LOAD (0.01) the share of the seeds' CPU demand that the estate makes, 1 for all 26 cores; LAB_DISK (none) a bound on
the store of kvm2's engine, such as 3g, which then lies in memory."""


def up(settings: Settings, *, with_estate: bool) -> None:
    """Bring the lab up, or find it up."""
    say(f"Lab {settings.name!r} (Debian {settings.debian}):")
    engine = connect(settings, start=True)
    if engine is None:
        raise LabError("no Docker engine could be started")
    hosts.up(engine, settings)
    swarm.up(engine, settings)
    if with_estate:
        estate.up(engine, settings)
    config = settings.ssh_config.relative_to(settings.project)
    say(f"Lab {settings.name!r} is up. Log in with: ssh -F {config} kvm4.{settings.name}")


def down(settings: Settings) -> None:
    """Remove the lab; with the last one, stop the engine that the lab started."""
    engine = connect(settings, start=False)
    if engine is None:
        say("No engine, so no lab.")
    else:
        hosts.down(engine, settings)
        others = hosts.release(engine, settings)
        if others:
            say(f"Other labs are up, so their engine goes on: {', '.join(others)}")
    shutil.rmtree(settings.directory, ignore_errors=True)
    say(f"Lab {settings.name!r} is gone. Its images are kept for the next time; `make clean` removes them.")


def clean(settings: Settings) -> None:
    """Remove every trace of this checkout's labs: virtual machines, the labs, their images, the engine's store."""
    vm.down_all(settings)
    engine = connect(settings, start=False)
    prefix = f"evenkeel-{settings.checkout}-"
    for network in hosts.labs(engine) if engine else []:
        if network.startswith(prefix):
            down(replace(settings, name=network.removeprefix(prefix)))
    if OwnEngine(settings).uses(settings.project / ".lab"):
        raise LabError(
            "labs of other checkouts run on the engine of this one; take them down first (`make lab-down` there)"
        )
    if engine and engine.answers():
        images.remove(engine)
    shutil.rmtree(settings.project / ".lab", ignore_errors=True)


def units_action(settings: Settings, arguments: argparse.Namespace) -> None:
    """Do something with the units on a lab that is up."""
    engine = connect(settings, start=False)
    if engine is None:
        raise LabError(f"the lab {settings.name!r} is not up")
    units.main(engine, settings, arguments.action, arguments.unit, way=arguments.way, megabytes=arguments.fill)


def status(settings: Settings) -> int:
    """Say what there is. Returns 0 if the lab is up, 3 if not."""
    engine = connect(settings, start=False)
    up_now = engine is not None and all(engine.running(settings.container(host)) for host in HOSTS)
    say(f"Lab {settings.name!r} is {'up' if up_now else 'not up: run `make lab-up`'}.")
    return 0 if up_now else 3


def main() -> int:
    """Run one verb; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lab", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb_up = verbs.add_parser("up", help="bring the lab up, or find it up")
    verb_up.add_argument("--no-estate", action="store_true", help="hosts and Swarm only, without the seeds' services")
    verbs.add_parser("down", help="remove the lab and nothing else")
    verbs.add_parser("clean", help="remove all labs of this checkout, their images and the engine's store")
    verbs.add_parser("status", help="say whether it is up (exit 3 if not)")
    verb_units = verbs.add_parser("units", help="units with real writers, for moving them, on a lab that is up")
    verb_units.add_argument("action", choices=["up", "down", "redeploy", "inventory"])
    verb_units.add_argument("--unit", default="saleor", choices=[*units.load(), "all"])
    verb_units.add_argument("--way", default="api", choices=units.WAYS, help="how it is deployed (default: api)")
    verb_units.add_argument("--fill", type=int, default=0, metavar="MB", help="data in its database")
    arguments = parser.parse_args()
    try:
        settings = from_environment()
        if arguments.verb == "up":
            up(settings, with_estate=not arguments.no_estate)
        elif arguments.verb == "down":
            down(settings)
        elif arguments.verb == "clean":
            clean(settings)
        elif arguments.verb == "units":
            units_action(settings, arguments)
        else:
            return status(settings)
    except LabError as error:
        return fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
