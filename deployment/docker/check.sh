#!/bin/sh
# Checks the files of the platform in containers, without an engine; part of `make check`.
set -eu
cd "$(dirname "$0")/../.."
.venv/bin/hadolint deployment/docker/Dockerfile tests/docker/engine/standin/postgres.Dockerfile

if docker compose version >/dev/null 2>&1; then
    compose() { docker compose "$@"; }
elif command -v docker-compose >/dev/null; then
    compose() { docker-compose "$@"; }
else
    echo "docker compose is not here: docker-compose.yaml is checked by its tests alone"
    exit 0
fi
# .env may hold anything; here only the file is looked at
empty=$(mktemp)
trap 'rm -f "$empty"' EXIT
for profile in "" scale tools gpu; do
    COMPOSE_PROJECT_NAME=apex-check compose --env-file "$empty" ${profile:+--profile "$profile"} config --quiet
done
