#!/bin/bash
# What `make uninstall` does beside PGXS: says what still uses visrec and what stays, then
# removes the package, the environment, the command, and the pgvector that make deps built.
#
#   scripts/uninstall.sh VISREC_HOME VISREC_BIN VISREC_DATA
set -euo pipefail

home=$1 bin=$2 data=$3
record=$home/installed-by-make-deps
sockets=${VISREC_ROOT:-}/var/run/postgresql       # VISREC_ROOT: only tests set it

as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then
        (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$@")
    else
        "$@"
    fi
}

ask() { PGCONNECT_TIMEOUT=5 PGOPTIONS='-c search_path=pg_catalog' as_postgres psql -XAtq -h "$sockets" -p "$1" -d "$2" -c "$3" 2>/dev/null; }

# --- who uses it -----------------------------------------------------------------

vector_is_used=''
look_into() {
    local port=$1 database tables
    local list='SELECT datname FROM pg_catalog.pg_database WHERE datallowconn'
    if ! ask "$port" postgres "$list" >/dev/null; then
        echo "the server on port $port does not answer the OS user $(as_postgres id -un); look there yourself, in each database:"
        echo "  SELECT * FROM visrec.attached;"
        vector_is_used=perhaps
        return
    fi
    while IFS= read -r database; do
        if [ -n "$(ask "$port" "$database" "SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'vector'")" ]; then
            vector_is_used=yes
        fi
        if [ -n "$(ask "$port" "$database" "SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'visrec'")" ]; then
            tables=$(ask "$port" "$database" \
                "SELECT pg_catalog.string_agg(DISTINCT relation::text, ', ') FROM visrec.attachment")
            echo "database \"$database\" on port $port has the extension; attached: ${tables:-no table}"
            echo "  fix: psql -p $port -d '$database' -c 'DROP EXTENSION visrec' -c 'DROP SCHEMA visrec'"
        fi
    done < <(ask "$port" postgres "$list")
}

shopt -s nullglob
found=''
for socket in "$sockets"/.s.PGSQL.*; do
    case $socket in *.lock) continue ;; esac
    found=yes
    look_into "${socket##*.}"
done
if [ -z "$found" ]; then
    echo "no running server was found in $sockets; where one is, look in each database: SELECT * FROM visrec.attached"
    vector_is_used=perhaps
fi

# --- what goes, and what stays ---------------------------------------------------

rm -rf "$home/python" "$home/venv" "$home/venv.old" "$bin/visrec"

if [ -e "$record" ]; then
    mapfile -t files < <(sed -n 's/^pgvector //p' "$record")
    if [ ${#files[@]} -gt 0 ] && { [ -z "$vector_is_used" ] || [ "${PGVECTOR:-}" = remove ]; }; then
        rm -f "${files[@]}"
        for file in "${files[@]}"; do rmdir -p --ignore-fail-on-non-empty "${file%/*}" 2>/dev/null || true; done
        sed -i '/^pgvector /d' "$record"
        echo "removed the pgvector that make deps built"
    elif [ ${#files[@]} -gt 0 ]; then
        echo "pgvector, which make deps built, stays: it is or may be used (see above)"
        echo "  fix: make uninstall PGVECTOR=remove, when no database has vectors any more"
    fi
    packages=$(sed -n 's/^package //p' "$record" | while read -r package; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in *" installed") echo "$package" ;; esac
    done | xargs)
    if [ -n "$packages" ]; then
        echo "these packages, which make deps installed, stay; apt says what else would go with them:"
        echo "  apt-get remove $packages"
    fi
    grep -q '^pgvector ' "$record" || rm "$record"
fi

for directory in "$home" "$data/images" "$data/models" "$data"; do
    rmdir --ignore-fail-on-non-empty "$directory" 2>/dev/null || true
done
for directory in "$data/images" "$data/models"; do
    if [ -e "$directory" ]; then echo "$directory stays"; fi
done
