#!/bin/sh
# Pins the packages of the images, with the versions and by the rules of requirements.txt; part of `make lock`.
set -eu
cd "$(dirname "$0")/../.."
steps=$(mktemp --suffix=.in)
trap 'rm -f "$steps"' EXIT

pin() {
    source=$1 target=$2
    shift 2
    .venv/bin/uv pip compile "$source" "$@" --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --no-annotate --quiet --output-file "deployment/docker/$target"
}
{
    cat deployment/docker/ml.in
    .venv/bin/python -c 'from apex_ml.core.candidates import image_requirements; print(*image_requirements(), sep="\n")'
} >"$steps"
pin deployment/docker/airflow.in airflow.txt --constraint requirements.txt
pin "$steps" ml.txt --constraint requirements.txt --override deployment/docker/cpu.txt
pin "$steps" ml-cuda.txt --constraint requirements.txt
