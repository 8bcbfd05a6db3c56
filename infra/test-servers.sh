#!/usr/bin/env bash
# Installs the servers that tests start by themselves, from Debian where root and apt-get are to be had. Tests whose
# server is missing are skipped and say so, therefore this never fails.
set -uo pipefail
PATH=$PATH:/usr/sbin:/sbin

declare -A missing=()
command -v redis-server >/dev/null || missing[redis-server]=1
command -v rabbitmq-server >/dev/null || missing[rabbitmq-server]=1
command -v promtool >/dev/null || missing[prometheus]=1
command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing[postgresql]=1
[[ ${#missing[@]} -eq 0 ]] && exit 0

packages=("${!missing[@]}")
as_root=()
if [[ $(id -u) -ne 0 ]]; then
    as_root=(sudo -n)
fi
give_up() {
    echo "note: ${packages[*]} could not be installed ($1); the tests that need them are skipped." >&2
    echo "      To run them too: sudo apt-get install ${packages[*]}" >&2
    exit 0
}
command -v apt-get >/dev/null || give_up "there is no apt-get"
"${as_root[@]}" true 2>/dev/null || give_up "that needs root"

echo "Installing from Debian, for the tests: ${packages[*]}"
"${as_root[@]}" apt-get update -qq || give_up "apt-get update failed"
# Level 1: the packages' own services are not started; tests run servers of their own on free ports.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || give_up "apt-get install failed"
