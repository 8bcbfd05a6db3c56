#!/usr/bin/env bash
# make-venv.sh PYTHON DIRECTORY: a virtual environment by a Python that is new enough, or a message that says what to do.
set -euo pipefail
python=${1:-} directory=$2

if [[ -x $directory/bin/python ]]; then
    exit 0
fi
if [[ -z $python ]] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "LatentBank needs Python 3.11 or newer (found: ${python:-none}). On Debian 12: apt-get install python3.11 python3.11-venv;" >&2
    echo "another one is used by: make PYTHON=/path/to/python3.11 …" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
        echo "This Python can't make virtual environments. Run: sudo apt-get install $package" >&2
        exit 1
    fi
    echo "Installing $package from Debian, which virtual environments need"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null
fi
"$python" -m venv "$directory"
