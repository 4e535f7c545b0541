# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between the launcher and a worker's program: limits, no new privileges, an end with the launcher.

Run as a file: `gate.py <parent's pid> <name=value,...> <program> [argument ...]`; it becomes the program. So that it
starts fast it imports nothing of the launcher.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
NOT_STARTED = 127
#: Under memory pressure the kernel takes workers before the launcher.
OOM_SCORE = "500"


def main() -> None:
    """Set everything, then exec; what goes wrong is said on standard error, with exit code 127."""
    parent, limits, *argv = sys.argv[1:]
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(NOT_STARTED)
    offer_to_oom_killer()
    try:
        for pair in filter(None, limits.split(",")):
            name, value = pair.split("=")
            resource.setrlimit(getattr(resource, name), (int(value), int(value)))
        os.execvp(argv[0], argv)  # noqa: S606 # that no shell is between is the point
    except (OSError, ValueError) as error:
        print(f"launcher: {argv[0]} could not be started: {error}", file=sys.stderr)
        sys.exit(NOT_STARTED)


def offer_to_oom_killer() -> None:
    """Let the kernel take this process before the launcher, where it may be told."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 # pathlib costs each start its import
            file.write(OOM_SCORE)
    except OSError:
        return


if __name__ == "__main__":
    main()
