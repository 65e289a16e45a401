#!/bin/bash
# What the official image's entrypoint does when there is no database yet: makes one, and
# sources the scripts of a directory while a server without TCP runs.
set -e
initdb --username=postgres --auth=trust >/dev/null
pg_ctl -w start -o "-c listen_addresses=''" >/dev/null
for script in "$1"/*.sh; do
    # shellcheck source=/dev/null
    . "$script"
done
pg_ctl -m fast -w stop >/dev/null
