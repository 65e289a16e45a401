#!/bin/bash
# Installs, runs the demo and the tests in clean Debian trees; see tests/matrix/.
#
#   scripts/matrix.sh [ARGUMENT...]           arguments: see python3 -m tests.matrix --help
#
# In namespaces of its own: whatever was mounted and started is gone when this ends.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
    printf 'error: clean trees are made and entered as root\n  fix: sudo -E %s %s\n' "$0" "$*" >&2
    exit 1
fi
if ! command -v mmdebstrap >/dev/null; then
    printf 'error: there is no mmdebstrap\n  fix: apt-get install mmdebstrap\n' >&2
    exit 1
fi
export PYTHONDONTWRITEBYTECODE=1
# The shell is process 1 there, and takes orphans' deaths: two commands, so that it stays.
exec unshare --mount --pid --fork --mount-proc --kill-child \
    /bin/bash -c '/usr/bin/python3 -m tests.matrix "$@"; exit $?' matrix "$@"
