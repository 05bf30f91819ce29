#!/bin/sh
# What the official image's entrypoint does with the variables that docker-compose.yaml sets.
set -eu
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    # shellcheck disable=SC2086 # several options in one variable
    initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
    echo "host all all all $POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
fi
# Debian 12 has PostgreSQL 15, which does not know the slots that 16 and later reserve
if [ "$(postgres --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')" -lt 16 ]; then
    for argument; do
        shift
        case $argument in
            reserved_connections=*) argument=superuser_reserved_connections=3 ;;
        esac
        set -- "$@" "$argument"
    done
fi
exec "$@"
