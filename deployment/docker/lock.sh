#!/bin/sh
# Pins the packages of the images, with the versions and by the rules of requirements.txt; part of `make lock`.
set -eu
cd "$(dirname "$0")/../.."
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
# Flask-AppBuilder, Airflow's logins on a server, still wants python-dateutil 2
sed '/^python-dateutil==/,/[^\\]$/d' requirements.txt >"$constraints"

pin() {
    source=$1 target=$2
    shift 2
    .venv/bin/uv pip compile "deployment/docker/$source" "$@" --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --no-annotate --quiet --output-file "deployment/docker/$target"
}
pin airflow.in airflow.txt --constraint "$constraints"
pin ml.in ml.txt --constraint requirements.txt --override deployment/docker/cpu.txt
pin ml.in ml-cuda.txt --constraint requirements.txt
