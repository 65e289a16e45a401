#!/bin/sh
# Says by its exit status whether the files of a staged installation are in place.
#
#   scripts/is-installed.sh STAGE VISREC_HOME
set -eu
cd "$1"

# The package both ways, since a module that is gone must go; the rest file by file.
diff -rq -x __pycache__ ".$2/python" "$2/python" >/dev/null 2>&1
find . -type f ! -name '*.pyc' -exec sh -c 'for f; do cmp -s "$f" "/$f" || exit 1; done' - {} +
find . -type d -exec sh -c 'for d; do [ -d "/$d" ] || exit 1; done' - {} +
