#!/bin/bash
# Images for tests where no image registry is reached, made once from Debian's packages as this machine gets them:
# apex-test/base:bookworm (Python), apex-test/postgres:15 and apex-test/redis:7 behind the official images' variables.
# Needs root, debootstrap, and an apt that works.
set -euo pipefail
cd "$(dirname "$0")"
docker=("${DOCKER:-docker}")

# quick when it is made already and the entrypoint is the same
make_postgres() {
    "${docker[@]}" build --quiet --tag apex-test/postgres:15 --build-arg SERVICES_IMAGE=apex-test/redis:7 \
        --file postgres.Dockerfile . >/dev/null
}
if "${docker[@]}" image inspect apex-test/base:bookworm apex-test/redis:7 >/dev/null 2>&1; then
    make_postgres
    exit 0
fi
release=bookworm
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# the first mirror that carries the release, from apt's own configuration
mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' | awk -v r="$release" '$2 == r && $3 == "main" { print $1; exit }')
[[ -n $mirror ]] || { echo "apt knows no mirror of Debian $release" >&2; exit 30; }

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$release" "$folder/root" "$mirror" >"$folder/log" 2>&1 ||
    { tail -n 20 "$folder/log" >&2; exit 20; }

# nothing of this machine stays: no mirror, no index of packages
clean() {
    rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/apt.conf.d/99host "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* \
        "$1"/var/log/* "$1"/usr/share/doc/* "$1"/usr/share/locale/* "$1"/usr/share/man/* "$1"/usr/sbin/policy-rc.d
}
cp -a "$folder/root" "$folder/services"
clean "$folder/root"
tar -C "$folder/root" -c . | "${docker[@]}" import --change 'CMD ["/bin/bash"]' - apex-test/base:bookworm >/dev/null

services=$folder/services
echo "deb $mirror $release main" >"$services/etc/apt/sources.list"
apt-config dump --format '%f "%v";%n' Acquire 2>/dev/null | grep -E '^Acquire::(http|https|Check)' >"$services/etc/apt/apt.conf.d/99host" || true
printf '#!/bin/sh\nexit 101\n' >"$services/usr/sbin/policy-rc.d" # no service starts
chmod +x "$services/usr/sbin/policy-rc.d"
chroot "$services" env DEBIAN_FRONTEND=noninteractive sh -ec \
    'apt-get update -qq; apt-get install -qq -y --no-install-recommends postgresql-15 redis-server' >"$folder/log" 2>&1 ||
    { tail -n 20 "$folder/log" >&2; exit 20; }
clean "$services"
rm -rf "$services"/var/lib/postgresql/15
tar -C "$services" -c . | "${docker[@]}" import - apex-test/redis:7 >/dev/null
make_postgres
