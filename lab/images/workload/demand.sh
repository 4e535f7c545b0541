#!/bin/sh
# Run a server with the CPU demand of the real one beside it: DEMAND has the groups that closed_loops.py takes.
set -eu
if [ -n "${DEMAND:-}" ]; then
    # shellcheck disable=SC2086 # one argument a group
    python3 -ISE /usr/local/lib/closed_loops.py $DEMAND &
fi
exec "$@"
