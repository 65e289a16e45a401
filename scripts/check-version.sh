#!/bin/sh
# The version stands in extension/visrec.control; what repeats it must agree.
#
#   scripts/check-version.sh VERSION
set -eu
cd "$(dirname "$0")/.."

status=0
agree() {
    if [ "$2" != "$1" ]; then
        echo "error: $3 says version '$2', extension/visrec.control says '$1'" >&2
        status=1
    fi
}
meta() { /usr/bin/python3 -c "import json; print(json.load(open('META.json'))$1)"; }

agree "$1" "$(meta "['version']")" "META.json"
agree "$1" "$(meta "['provides']['visrec']['version']")" "META.json, under provides,"
agree "$1" "$(sed -n 's/^__version__ = "\([^"]*\)".*/\1/p' python/visrec_db/__init__.py)" \
    python/visrec_db/__init__.py
exit $status
