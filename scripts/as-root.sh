#!/bin/sh
# Runs a command as root: directly, or through sudo, or says who must run it.
#
#   scripts/as-root.sh COMMAND [ARGUMENT...]
#
# pip's settings (an index of one's own, a cache, certificates), proxies and the model hub's
# address live in the environment, which sudo empties: they are handed on by name, so that no
# value shows in a process list.
set -eu

if [ "$(id -u)" -eq 0 ]; then
    exec "$@"
fi
if ! command -v sudo >/dev/null; then
    echo "error: this step needs root, and there is no sudo here" >&2
    echo "  fix: run as root, or ask an administrator to run:  cd $PWD && $*" >&2
    exit 1
fi
keep=$(env | sed -n 's/^\(PIP_[A-Z_]*\|SSL_CERT_FILE\|SSL_CERT_DIR\|HF_[A-Z_]*\|[A-Za-z]*_\(proxy\|PROXY\)\)=.*/\1/p' |
    paste -sd, -)
exec sudo ${keep:+"--preserve-env=$keep"} -- "$@"
