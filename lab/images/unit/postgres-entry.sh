#!/bin/sh
# Start PostgreSQL by the official image's conventions: root makes the directory, then another user makes the cluster and runs it.
# POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, PGDATA.
set -eu
if [ "$(id -u)" = 0 ]; then
    if [ "$1" = postgres ]; then
        mkdir -p "$PGDATA"
        chmod 700 "$PGDATA"
        find "$PGDATA" ! -user postgres -exec chown postgres '{}' +
        exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
    fi
    exec "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    password=${POSTGRES_PASSWORD:-$(cat "${POSTGRES_PASSWORD_FILE:-/dev/null}")}
    [ -n "$password" ] || { echo "POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE must hold a password" >&2; exit 1; }
    umask 077
    file=$(mktemp)
    printf '%s\n' "$password" >"$file"
    initdb --username="$user" --pwfile="$file" --auth-local=trust --auth-host=scram-sha-256 --no-sync >/dev/null
    rm -f "$file"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    # Nobody but this script reaches the first start: no address, and a socket directory of its own.
    pg_ctl --silent --wait -o "-c listen_addresses='' -c unix_socket_directories=/tmp" start >/dev/null
    psql -h /tmp -U "$user" -d postgres -qXc "CREATE DATABASE \"${POSTGRES_DB:-$user}\"" 2>/dev/null || true
    pg_ctl --silent --wait --mode=fast stop >/dev/null
fi
exec "$@"
