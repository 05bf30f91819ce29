#!/bin/sh
# Makes .venv with the exact packages of requirements.txt, by hash, and this project as an editable install.
# A second call does nothing while requirements.txt, pyproject.toml and this script are unchanged.
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
uv_version=0.13.9

fail() {
    echo "make setup: $1" >&2
    exit 30
}

command -v "$python" >/dev/null 2>&1 || fail "$python is not there: install Python 3.11 or newer, or say PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
    fail "$python is $("$python" --version 2>&1 | head -n 1), Apex needs Python 3.11, 3.12 or 3.13: say PYTHON=/path/to/python3.11"

stamp=.venv/apex-setup
expected=$("$python" - requirements.txt pyproject.toml deployment/local/setup.sh <<'END'
import hashlib, os, sys
digest = hashlib.sha256(os.getcwd().encode())  # a moved .venv does not work: its commands name its old place
for name in sys.argv[1:]:
    digest.update(open(name, "rb").read())
print(digest.hexdigest())
END
)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$expected" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

# an incomplete environment of a killed set-up is made again; a complete one is updated
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv)"
    "$python" -m venv --clear .venv
fi
rm -f "$stamp"
# pip trusts the certificates of this machine, also a company's own; uv needs a setting for that
for store in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
    if [ -s "$store" ]; then
        export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
    fi
done
echo "Installing packages into .venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.txt
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
echo "$expected" >"$stamp"
