#!/bin/bash
# Makes a Python environment of exactly the pinned packages; does nothing when it is there.
#
#   scripts/make-venv.sh DIRECTORY REQUIREMENTS [ENVIRONMENT_SEEN]
#
# Of the system's Python, because that is the one PL/Python embeds: packages built for
# another build of the same version fail to load in the server. ENVIRONMENT_SEEN is
# another such environment, whose packages this one can import as well.
set -euo pipefail

here=$(dirname "$0")
directory=$(realpath -m "$1") requirements=$2 seen=${3:-}
python=/usr/bin/python3
stamp=$directory/visrec.stamp

# What the environment is made from; written last, so that it vouches for the rest.
wanted=$({ "$python" -VV; echo "$seen"; cat "$requirements"; } | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

parent=$(dirname "$directory")
while [ ! -e "$parent" ]; do parent=$(dirname "$parent"); done
if [ ! -w "$parent" ]; then
    exec "$here/as-root.sh" "$0" "$@"
fi

# Built in its place, since an environment cannot be moved; the old one stands aside
# and comes back if this fails.
umask 022                       # the server's user must be able to read it
old=$directory.old
if [ -e "$stamp" ]; then
    rm -rf "$old"
    mv "$directory" "$old"
fi
restore() {
    rm -rf "$directory"
    if [ -e "$old" ]; then mv "$old" "$directory"; fi
    echo "error: the Python environment $directory could not be made (see above)" >&2
    echo "  fix: 'make deps' if venv is missing; else see that pip reaches its index, and run this again" >&2
}
trap restore EXIT

echo "making the Python environment $directory ($(grep -c '==' "$requirements") packages; this may take minutes)"
rm -rf "$directory"
mkdir -p "$(dirname "$directory")"
"$python" -m venv "$directory"
if [ -n "$seen" ]; then
    site=$("$directory/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$seen/${site#"$directory/"}" >"$site/visrec-seen.pth"
fi
"$directory/bin/python" -m pip install --disable-pip-version-check --progress-bar off -r "$requirements" |
    { grep --line-buffered -oE 'Downloading .* [MG]B.*|Installing collected packages' || true; }
echo "$wanted" >"$stamp"

trap - EXIT
rm -rf "$old"
