#!/bin/sh
# Start Redis by the official image's conventions: a bare redis-server drops root, anything else (sh -c ...) keeps it.
set -eu
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find /data ! -user redis -exec chown redis '{}' +
    exec setpriv --reuid=redis --regid=redis --init-groups "$0" "$@"
fi
exec "$@"
