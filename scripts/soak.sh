#!/bin/bash
# Kills, crowds and full disks for minutes, on a cluster made for this run; see tests/soak/.
#
#   scripts/soak.sh PYTHON [ARGUMENT...]      arguments: see PYTHON -m tests.soak --help
#
# PYTHON is the server's, which has the libraries that the pictures are drawn with.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022                       # the server's user reads what is made here

python=$1
shift
export VISREC_SOAK_CLUSTER=soak-$$
stop() {
    trap '' INT TERM            # make passes on a signal that was meant for all: only the first counts
    { grep -o "/[^ ]*/$VISREC_SOAK_CLUSTER/[^ ]*" /proc/mounts || true; } | xargs -r umount -l
    scripts/cluster.sh stop "$VISREC_SOAK_CLUSTER" --remove
}
trap stop EXIT
scripts/cluster.sh start "$VISREC_SOAK_CLUSTER"     # not --throwaway: what it says is committed must be
PYTHONPATH=python:demo PYTHONDONTWRITEBYTECODE=1 "$python" -m tests.soak "$@"
