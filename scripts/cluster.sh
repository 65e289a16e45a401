#!/bin/bash
# A PostgreSQL cluster of one's own, for tests and the demo; never the system's.
#
#   scripts/cluster.sh start NAME [--throwaway]   make it if need be, and start it
#   scripts/cluster.sh env NAME                   print its PG* variables, to be eval'ed
#   scripts/cluster.sh status NAME
#   scripts/cluster.sh stop NAME [--remove]
#   scripts/cluster.sh kept NAME                  say which fetched models outlive it
#
# It lives in $VISREC_STATE/NAME (by default under /var/tmp, or $TMPDIR), of the
# PostgreSQL of $PG_CONFIG, and works the same for root and for anybody else: since
# PostgreSQL refuses to run as root, root's runs as the OS user postgres.
#
# Who may connect: whoever has the password, drawn at random and kept in a file that only
# its maker can read. Neither trust (other users of the machine reach 127.0.0.1 too)
# nor peer (root would have to become postgres) does as well for all these cases; one TCP
# address on the loopback interface also needs no path short enough for a socket.
#
# What the server's user can read is not what the caller can: VISREC_SHARED_DIR is a
# directory that the caller writes and the server reads. VISREC_KEPT_DIR is another, which
# outlives the clusters: for models that were fetched.
set -euo pipefail

usage() { sed -n 's/^#   \(scripts.*\)/usage: \1/p' "$0" >&2; exit 2; }
fail() { printf 'error: %s\n  fix: %s\n' "$1" "$2" >&2; exit 1; }

[ $# -ge 2 ] || usage
action=$1 name=$2
shift 2
[[ $name =~ ^[a-z0-9-]+$ ]] || fail "'$name' is no name of a cluster" "use a-z, 0-9 and -"

bindir=$("${PG_CONFIG:-pg_config}" --bindir) ||
    fail "there is no PostgreSQL here (${PG_CONFIG:-pg_config} does not run)" "make deps"
state=${VISREC_STATE:-${TMPDIR:-/var/tmp}/visrec-$(id -un)}
cluster=$state/$name            # the caller's: port, pgpass, shared/
server=$cluster/server          # the server's: data/, log
kept=$state/_kept               # the caller's, for all clusters: none can have this name

# Runs a program as the user that owns the server, with a bare environment like that
# of a server started by the system: nothing of the caller's Python or locale.
as_server() {
    local user
    local -a become=()
    user=$(id -un)
    if [ "$(id -u)" -eq 0 ]; then
        user=postgres
        become=(setpriv --reuid=postgres --regid=postgres --init-groups)
    fi
    (
        cd /
        exec "${become[@]}" env -i PATH=/usr/local/bin:/usr/bin:/bin LC_ALL=C.UTF-8 \
            HOME="$(getent passwd "$user" | cut -d: -f6)" USER="$user" "$@"
    )
}

running() { [ -d "$server/data" ] && as_server "$bindir/pg_ctl" status -D "$server/data" >/dev/null; }

make_cluster() {
    if [ "$(id -u)" -eq 0 ] && ! id postgres >/dev/null 2>&1; then
        fail "PostgreSQL does not run as root, and there is no OS user postgres" \
            "make deps, or do this as an ordinary user"
    fi
    # /var/tmp is everybody's: a directory that somebody else put there is not ours.
    mkdir -p "$state"
    if [ ! -O "$state" ] || [ -L "$state" ]; then
        fail "$state belongs to somebody else" "set VISREC_STATE to a directory of yours"
    fi
    rm -rf "$cluster"
    mkdir -p "$kept"
    mkdir "$cluster" "$server" "$cluster/shared"
    chmod 755 "$state" "$kept" "$cluster" "$cluster/shared"
    if [ "$(id -u)" -eq 0 ]; then chown postgres: "$server"; fi
    chmod 700 "$server"
    as_server test -w "$server" ||
        fail "the server's user cannot get to $server" "set VISREC_STATE to a directory that all can enter"

    local password
    password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
    (umask 077 && echo "127.0.0.1:*:*:postgres:$password" >"$cluster/pgpass")
    # shellcheck disable=SC2016  # expanded by that shell, where --pwfile has its pipe
    as_server "$BASH" -c '"$1" -D "$2" --pwfile=<(cat) --username=postgres --auth=scram-sha-256 \
        --encoding=UTF8 --locale=C.UTF-8 --no-sync >"$3"' \
        - "$bindir/initdb" "$server/data" "$server/initdb.log" <<<"$password" ||
        { rm -rf "$cluster"; fail "initdb failed (see above)" "set VISREC_STATE if that place is unfit"; }
    as_server tee -a "$server/data/postgresql.conf" >/dev/null <<EOF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
EOF
    if [ "$1" = --throwaway ]; then
        as_server tee -a "$server/data/postgresql.conf" >/dev/null <<EOF
# A cluster for one run of the tests: nobody misses it after a crash.
fsync = off
synchronous_commit = off
full_page_writes = off
max_prepared_transactions = 20
wal_level = logical
EOF
    fi
}

# Ports in use are skipped; so is one that somebody takes between the look and the start.
start_server() {
    local port
    for port in $(cat "$cluster/port" 2>/dev/null) {54330..54429}; do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue; fi
        if as_server "$bindir/pg_ctl" start -w -s -D "$server/data" -l "$server/log" -o "-p $port" \
            >/dev/null 2>&1; then
            echo "$port" >"$cluster/port"
            return
        fi
        as_server tail -n 5 "$server/log" | grep -q 'could not bind' || break
    done
    as_server tail -n 20 "$server/log" >&2
    fail "the cluster $name does not start (its log is above)" \
        "see the log; or begin anew: scripts/cluster.sh stop $name --remove"
}

print_env() {
    running || fail "the cluster $name does not run" "scripts/cluster.sh start $name"
    printf 'export %s=%q\n' PGHOST 127.0.0.1 PGPORT "$(cat "$cluster/port")" PGUSER postgres \
        PGDATABASE postgres PGPASSFILE "$cluster/pgpass" VISREC_SHARED_DIR "$cluster/shared" \
        VISREC_KEPT_DIR "$kept"
}

case $action in
    start)
        running && exit
        [ -e "$server/data/PG_VERSION" ] || make_cluster "${1:-}"
        start_server
        ;;
    env)
        print_env
        ;;
    status)
        running || { echo "$name does not run"; exit 3; }
        echo "$name runs on port $(cat "$cluster/port"), in $cluster"
        ;;
    stop)
        if running; then as_server "$bindir/pg_ctl" stop -s -w -m fast -D "$server/data"; fi
        if [ "${1:-}" = --remove ]; then rm -rf "$cluster"; fi
        ;;
    kept)
        for model in "$kept"/models/*/; do
            if [ -d "$model" ]; then echo "kept: the model ${model%/} (rm -r removes it)"; fi
        done
        ;;
    *)
        usage
        ;;
esac
