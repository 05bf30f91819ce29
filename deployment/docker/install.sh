#!/bin/sh
# install-packages LOCK: make /opt/apex/venv with the packages of a lock file, by hash.
# install-packages FOLDER: lay the project at FOLDER over it, as what has to be copied into /opt/apex/venv.
set -eu
venv=/opt/apex/venv
if [ -d "$1" ]; then
    touch /tmp/before
    /opt/uv/bin/uv pip install --quiet --offline --no-cache --python "$venv/bin/python" --no-deps --no-build-isolation -e "$1"
    "$venv/bin/python" -m compileall -q "$1/apex_ml" "$1/plugins" "$1/dags"
    cd "$venv"
    find . -newer /tmp/before \( -type f -o -type l \) -exec cp --parents -P {} /opt/apex/project \;
    exit
fi
mkdir -p /opt/apex/project
python3 -m venv --without-pip "$venv"
# pip's configuration, if it was passed in, also gives uv the index
index=$(/opt/uv/bin/pip config get global.index-url 2>/dev/null || true)
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
[ -s "$SSL_CERT_FILE" ] || unset SSL_CERT_FILE
/opt/uv/bin/uv pip sync --quiet --python "$venv/bin/python" --require-hashes ${index:+--default-index "$index"} "$1"
