#!/bin/bash
# Makes a Python environment of exactly the pinned packages; does nothing when it is there.
#
#   scripts/make-venv.sh DIRECTORY REQUIREMENTS [--seen ENVIRONMENT | --torch KIND]
#
# Of the system's Python, because that is the one PL/Python embeds: packages built for
# another build of the same version fail to load in the server. ENVIRONMENT is another such
# environment, whose packages this one can import as well.
#
# --torch adds torch and the packages of torch.txt, beside REQUIREMENTS. KIND is
#   cpu, cuda   the build for these
#   none        no torch: for `pixels` and models that are compiled already
#   any         whatever is there; none in a new environment
#   ''          cpu or cuda, whichever is there; in a new one cuda beside an NVIDIA driver, or
#               where no build for CPUs is to be had
set -euo pipefail

here=$(dirname "$0")
directory=$(realpath -m "$1") requirements=$2 seen='' torch=absent
case ${3:-} in
    --seen) seen=$4 ;;
    --torch) torch=$4 ;;
esac
python=/usr/bin/python3
stamp=$directory/visrec.stamp
torch_requirements=$(dirname "$requirements")/torch.txt
cpu_index=https://download.pytorch.org/whl/cpu

# As python/visrec_db/encoders/hardware.py says it; VISREC_ROOT: only tests set it.
may_have_cuda() { [ -e "${VISREC_ROOT:-}/proc/driver/nvidia/version" ] || [ -e "${VISREC_ROOT:-}/dev/dxg" ]; }

there=$(sed -n 's/^torch: //p' "$stamp" 2>/dev/null || true)
asked=$torch
case $torch/$there in
    cpu/* | cuda/* | none/* | absent/*) ;;
    any/*) torch=${there:-none} ;;
    /cpu | /cuda) torch=$there ;;
    /*) if may_have_cuda; then torch=cuda; else torch=cpu; fi ;;
    *)
        printf 'error: there is no torch for "%s"\n  fix: TORCH=cpu, cuda or none, or leave it out\n' "$torch" >&2
        exit 1
        ;;
esac

# Measured on x86-64 with Python 3.11.
case $torch in
    absent) files=("$requirements") size='' ;;
    none) files=("$requirements") size='without torch: about 130 MB to fetch, 0.6 GB on disk' ;;
    cpu) files=("$requirements" "$torch_requirements") size='torch for CPUs: about 370 MB to fetch, 1.6 GB on disk' ;;
    cuda) files=("$requirements" "$torch_requirements") size='torch for NVIDIA GPUs: about 2.9 GB to fetch, 5.4 GB on disk' ;;
esac

# What the environment is made from; written last, so that it vouches for the rest.
made_from() {
    { "$python" -VV; echo "$seen"; cat "${files[@]}"; } | sha256sum | cut -d' ' -f1
    echo "torch: $torch"
}
wanted=$(made_from)
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
log=$(mktemp)
reason='see above: pip must reach its index; then run this again (make deps, if venv is missing)'
restore() {
    rm -rf "$directory" "$log"
    if [ -e "$old" ]; then mv "$old" "$directory"; fi
    echo "error: the Python environment $directory could not be made" >&2
    echo "  fix: $reason" >&2
}
trap restore EXIT

pip() { "$directory/bin/python" -m pip "$@"; }

pip_install() {
    pip install --disable-pip-version-check --progress-bar off "$@" |
        { grep --line-buffered -oE 'Downloading .* [MG]B.*|Installing collected packages' || true; }
}

# PyTorch's own index first. Elsewhere a build for CPUs may be found under its own version, as
# on a machine without a network; else what pip would take, with CUDA if that is all there is,
# unless it was the build for CPUs that was asked for.
install_torch_for_cpus() {
    local pin=$1
    pip_install --no-deps --timeout 15 --retries 2 --index-url "$cpu_index" "$pin+cpu" 2>"$log" && return
    pip_install --no-deps "$pin+cpu" 2>>"$log" && return
    if brings_cuda "$pin"; then
        grep -iE 'error|retrying' "$log" | tail -n 3 >&2 || true
        echo "$cpu_index is out of reach or has no $pin for this Python; where pip looks else, it comes with CUDA" >&2
        if [ -z "$asked" ]; then
            echo "fetching that: about 2.9 GB, 5.4 GB on disk (TORCH=none does without, PIP_EXTRA_INDEX_URL leads elsewhere)"
            torch=cuda
            wanted=$(made_from)
        else
            stop_without_cpu_build
        fi
    fi
    pip_install "$pin"
}

stop_without_cpu_build() {
    reason='PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS to where a build for CPUs is; or TORCH=cuda (5.4 GB); or TORCH=none'
    exit 1
}

# On x86-64 it does, and to ask pip would fetch some of it where the index has no metadata apart.
brings_cuda() {
    [ "$(uname -m)" != x86_64 ] || return 0
    pip install -qq --disable-pip-version-check --dry-run --report "$log.json" "$1" 2>>"$log" || return 0
    grep -qE '"name": "(nvidia|cuda)-' "$log.json"
}

echo "making the Python environment $directory (${size:+$size; }this may take minutes)"
rm -rf "$directory"
mkdir -p "$(dirname "$directory")"
"$python" -m venv "$directory"
if [ -n "$seen" ]; then
    site=$("$directory/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$seen/${site#"$directory/"}" >"$site/visrec-seen.pth"
fi
pin=$(grep '^torch==' "$torch_requirements")
case $torch in
    cpu) install_torch_for_cpus "$pin" ;;
    cuda) pip_install "$pin,!=${pin#torch==}+cpu" ;;
esac
pip_install "${files[@]/#/-r}"
echo "$wanted" >"$stamp"

trap - EXIT
rm -rf "$old" "$log" "$log.json"
