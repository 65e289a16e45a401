#!/bin/sh
# The version stands in extension/visrec.control; what repeats it must agree. A version whose
# install script is in extension/ is released: its parts are no longer changed.
#
#   scripts/check-version.sh VERSION PART...
set -eu
cd "$(dirname "$0")/.."

version=$1
shift
status=0
agree() {
    if [ "$2" != "$1" ]; then
        echo "error: $3 says version '$2', extension/visrec.control says '$1'" >&2
        status=1
    fi
}
meta() { /usr/bin/python3 -c "import json; print(json.load(open('META.json'))$1)"; }

agree "$version" "$(meta "['version']")" "META.json"
agree "$version" "$(meta "['provides']['visrec']['version']")" "META.json, under provides,"
agree "$version" "$(sed -n 's/^__version__ = "\([^"]*\)".*/\1/p' python/visrec_db/__init__.py)" \
    python/visrec_db/__init__.py
released=extension/visrec--$version.sql
if [ -e "$released" ] && ! cat "$@" | cmp -s - "$released"; then
    echo "error: version $version is released, and its parts are not those of $released" >&2
    echo "  fix: a new version, with an upgrade script extension/visrec--$version--NEW.sql" >&2
    status=1
fi
exit $status
