#!/bin/bash
# Measures, on a cluster made for this run; see benchmarks/.
#
#   scripts/bench.sh PYTHON [ARGUMENT...]     arguments: see PYTHON -m benchmarks --help
#
# PYTHON is the server's, whose libraries the encoder runs with. The model and the large
# pictures stay for the next run, beside the clusters.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022                       # the server's user reads what is made here

python=$1
shift
export VISREC_BENCH_CLUSTER=bench-$$
stop() {
    trap '' INT TERM            # make passes on a signal that was meant for all: only the first counts
    scripts/cluster.sh stop "$VISREC_BENCH_CLUSTER" --remove
}
trap stop EXIT
scripts/cluster.sh start "$VISREC_BENCH_CLUSTER"
env=$(scripts/cluster.sh env "$VISREC_BENCH_CLUSTER")
eval "$env"
export VISREC_BENCH_CACHE=${VISREC_SHARED_DIR%/*/*}/bench-cache
export PYTHONPATH=python:demo PYTHONDONTWRITEBYTECODE=1
export TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1 HF_HUB_OFFLINE=1
"$python" -m benchmarks "$@"
