# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`job-launcher`: the server, its users, and what scripts need of the API."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from job_launcher import __version__
from job_launcher.config import ROLES
from job_launcher.healthcheck import CONFIG, healthcheck
from job_launcher.refused import Refused

RUN_FAILED, WRONG, FAILED = 3, 2, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 for what failed, 2 for what was wrong with the question, 3 for a run that failed."""
    arguments = parser().parse_args(argv)
    try:
        succeeded = arguments.command(arguments)
    except Refused as error:
        print(f"job-launcher: {error}", file=sys.stderr)
        return FAILED if error.status >= 500 else WRONG
    except BrokenPipeError:
        # Whoever read our output has gone.
        sys.stderr.close()
        return FAILED
    except KeyboardInterrupt:
        return 130
    return 0 if succeeded else RUN_FAILED


def parser() -> argparse.ArgumentParser:
    """All commands. No option takes a secret: passwords and tokens come from files, standard input, the environment."""
    root = argparse.ArgumentParser(prog="job-launcher", description="Supervised units of work with live logs.")
    root.add_argument("--version", action="version", version=__version__)
    below = root.add_subparsers(required=True, metavar="COMMAND")
    _serve(below)
    _users(below)
    _remote(below)
    return root


def _late(name: str) -> Callable[[argparse.Namespace], bool]:
    """The command of that name, loaded when it is called: the health check needs none of what the others do."""

    def call(arguments: argparse.Namespace) -> bool:
        from job_launcher import commands  # noqa: PLC0415

        command: Callable[[argparse.Namespace], bool] = getattr(commands, name)
        return command(arguments)

    return call


def _serve(below: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = below.add_parser("serve", help="run the server until SIGTERM or SIGINT")
    _config(serve)
    serve.add_argument("--demo", action="store_true", help="demo templates and an admin with a random password")
    serve.add_argument("--data-dir", default="launcher-data", help="with --demo and no --config (%(default)s)")
    serve.add_argument("--listen", default="127.0.0.1:8080", help="with --demo and no --config (%(default)s)")
    serve.add_argument("--static-dir", help="with --demo and no --config: the built web pages")
    serve.set_defaults(command=_late("serve"))
    health = below.add_parser("healthcheck", help="0 if the server on this machine is well")
    _config(health)
    health.set_defaults(command=healthcheck)


def _users(below: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    user = below.add_parser("user", help="users, in the data directory of the configuration")
    each = user.add_subparsers(required=True, metavar="ACTION")
    add = each.add_parser("add", help="add a user; the password comes from standard input or a file")
    add.add_argument("name")
    add.add_argument("--role", choices=ROLES, default="operator")
    passwd = each.add_parser("passwd", help="set a password; sessions and tokens of the user end")
    passwd.add_argument("name")
    for parser_ in (add, passwd):
        parser_.add_argument("--password-file", help="a file with the password; default: standard input")
    token = each.add_parser("token", help="make a token for a script and print it, this once")
    token.add_argument("name")
    token.add_argument("--for", dest="purpose", default="command line", help="what it is for (%(default)s)")
    token.add_argument("--days", type=int, default=30, help="days until it is worth nothing (%(default)s)")
    listing = each.add_parser("list", help="print name, role and time of making")
    for parser_, command in (
        (add, _late("user_add")),
        (passwd, _late("user_passwd")),
        (token, _late("user_token")),
        (listing, _late("user_list")),
    ):
        _config(parser_)
        parser_.set_defaults(command=command)


def _remote(below: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    credit = below.add_parser("credit", help="give a user credits (an admin's token)")
    credit.add_argument("name")
    credit.add_argument("amount", type=int)
    credit.add_argument("--reason", required=True)
    run = below.add_parser("run", help="start a run and print its id")
    run.add_argument("template")
    run.add_argument("--total", type=int, required=True, help="units")
    run.add_argument("--max-parallel", type=int)
    run.add_argument("--set", dest="parameters", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("--idempotency-key", help="the same key and values start no second run")
    run.add_argument("--wait", action="store_true", help="follow the log to the end; 3 if not all units succeeded")
    tail = below.add_parser("tail", help="print a run's log and follow it to the end")
    tail.add_argument("run_id")
    tail.add_argument("--from", dest="start", type=int, default=0, metavar="BYTE")
    tail.add_argument("--no-follow", action="store_true", help="end at the log's present end")
    export = below.add_parser("export", help="print everything of a kind as JSON lines or CSV")
    export.add_argument("what", choices=("runs", "ledger", "numbers", "audit"))
    export.add_argument("--format", choices=("json", "csv"), default="json")
    for parser_, command in (
        (credit, _late("credit")),
        (run, _late("run")),
        (tail, _late("tail")),
        (export, _late("export")),
    ):
        parser_.add_argument("--url", help="the server ($JOB_LAUNCHER_URL, else http://127.0.0.1:8080)")
        parser_.add_argument("--token-file", help="a file with a token ($JOB_LAUNCHER_TOKEN_FILE, $JOB_LAUNCHER_TOKEN)")
        parser_.set_defaults(command=command)


def _config(parser_: argparse.ArgumentParser) -> None:
    parser_.add_argument("--config", help=f"($JOB_LAUNCHER_CONFIG, else {CONFIG})")


if __name__ == "__main__":
    sys.exit(main())
