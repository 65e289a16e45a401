#!/bin/bash
# Runs the golden tests and pytest against a cluster made for this run.
#
#   scripts/test.sh [PYTEST_ARGUMENT...]      with arguments: pytest alone
set -euo pipefail
cd "$(dirname "$0")/.."

cluster=test-$$                 # of its own, so that several runs do not meet
trap 'scripts/cluster.sh stop "$cluster" --remove' EXIT
scripts/cluster.sh start "$cluster" --throwaway
env=$(scripts/cluster.sh env "$cluster")
eval "$env"

status=0
if [ $# -eq 0 ] && ! "${MAKE:-make}" -s --no-print-directory installcheck; then
    status=1
    cat build/regress/regression.diffs || true
    echo "the golden tests failed: see build/regress/regression.diffs"
fi
# Last, so that the output ends with pytest's summary.
case " $* " in
    *" -m "*) ;;
    *) set -- -m 'not slow' "$@" ;;
esac
.venv/bin/python -m pytest "$@" || status=$?
exit $status
