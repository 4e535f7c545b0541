#!/bin/sh
# Start PostgreSQL on the volume, making the cluster on the first start.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
mkdir -p "$data"
chown -R postgres:postgres /var/lib/postgresql
if [ ! -s "$data/PG_VERSION" ]; then
    setpriv --reuid=postgres --regid=postgres --init-groups "$bin/initdb" -D "$data" --auth=trust --data-checksums >/dev/null
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups "$bin/postgres" -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp
