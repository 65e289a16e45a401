#!/bin/sh
# Installs what visrec needs and is not there yet; quick when nothing is missing.
#
#   [PG_CONFIG=/usr/lib/postgresql/17/bin/pg_config] scripts/install-deps.sh
#
# That is, for the PostgreSQL of PG_CONFIG (by default the newest installed, else the
# release's own): the server, PL/Python and pgvector; and Python's venv module. No server is
# started and no cluster is made. A server that is there stays as it is: UPGRADE=yes allows
# apt to upgrade it, and so to restart it. What was installed is kept in a list, for
# scripts/uninstall.sh.
set -eu
cd "$(dirname "$0")/.."

pg_config=${PG_CONFIG:-pg_config}
python=/usr/bin/python3         # the build that Debian's PL/Python embeds
record=${VISREC_HOME:-/usr/local/lib/visrec}/installed-by-make-deps     # lines: package NAME, pgvector FILE

fail() { printf 'error: %s\n  fix: %s\n' "$1" "$2" >&2; exit 1; }
as_root() { scripts/as-root.sh "$@"; }
pg() { "$pg_config" "$1" 2>/dev/null; }

# --- what is missing -------------------------------------------------------------

# The major version of PG_CONFIG, which may be a path that is not there yet.
major_asked_for() {
    pg --version | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p' | grep . ||
        echo "$pg_config" | sed -n 's|^/usr/lib/postgresql/\([0-9]*\)/bin/pg_config$|\1|p'
}

has_extension() { [ -e "$(pg --sharedir)/extension/$1.control" ]; }

# Debian's packages for all that is missing, but for pgvector.
missing_packages() {
    command -v make >/dev/null || echo make
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    [ -x "$(pg --bindir)/initdb" ] || echo "postgresql-$1"
    has_extension plpython3u || echo "postgresql-plpython3-$1"
    [ -e "$(pg --pgxs)" ] || echo "postgresql-client-$1"
}

# --- installing ------------------------------------------------------------------

apt_update() { as_root apt-get update -qq; }

apt_install() {
    echo "installing $*"
    # The lists may be old, and name versions that the archive has replaced.
    apt_try "$@" || { apt_update && apt_try "$@"; }
}

apt_try() {
    fit "$@"
    # shellcheck disable=SC2086  # a list of words
    simulated=$(apt-get install -s --no-install-recommends $fitted 2>/dev/null) || return 1
    check_no_upgrade "$@"
    # Before, so that an interrupted run is known, too.
    record_lines package "$(echo "$simulated" | sed -n 's/^Inst \([^ ]*\) (.*/\1/p')"
    # shellcheck disable=SC2086  # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends $fitted >/dev/null
}

# PL/Python depends on the very version of the server that it was built with. Where a server is
# installed already, that version is asked for, and not the newest.
fit() {
    fitted=''
    server=$(dpkg-query -W -f '${Version}' "postgresql-$major" 2>/dev/null || true)
    for package; do
        case $package in
            "postgresql-$major" | *-pgvector) ;;
            postgresql-*)
                if [ -n "$server" ] && apt-cache madison "$package" 2>/dev/null | grep -qF " $server "; then
                    package=$package=$server
                fi
                ;;
        esac
        fitted="$fitted $package"
    done
}

# To upgrade a server is to restart it, and to drop every session: never without a word.
check_no_upgrade() {
    upgrade=$(echo "$simulated" |
        sed -n 's/^Inst \(postgresql-[0-9]*\) \[\([^]]*\)\] (\([^ ]*\) .*/\1 from \2 to \3/p' | head -n 1)
    if [ -n "$upgrade" ] && [ "${UPGRADE:-}" != yes ]; then
        fail "to install $* would upgrade $upgrade, and restart its servers" \
            "UPGRADE=yes make deps, when that suits; or install packages of the server's own version first"
    fi
}

# record_lines KIND WORDS
record_lines() {
    [ -n "$2" ] || return 0
    as_root mkdir -p "${record%/*}"
    # shellcheck disable=SC2086  # a list of words
    { cat "$record" 2>/dev/null || true; printf "$1 %s\n" $2; } | sort -u >"$scratch/record"
    as_root cp "$scratch/record" "$record"
}

# Debian's server package makes a cluster on port 5432 and starts it, unless told not
# to: told so while it is installed, and no longer.
install_server() {
    drop_in=/etc/postgresql-common/createcluster.d/visrec-install.conf
    as_root mkdir -p "${drop_in%/*}"
    echo 'create_main_cluster = false' | as_root tee "$drop_in" >/dev/null
    apt_install "$@"
    remove_drop_in
}

remove_drop_in() {
    as_root rm -f "$drop_in"
    as_root rmdir --ignore-fail-on-non-empty "${drop_in%/*}"
    drop_in=
}

# A release without a package of pgvector builds Debian's first one, from the source
# package in the archive that this machine already uses. apt checks it against the
# archive's signature; in directories of its own, so that the system's package lists
# stay as they are.
build_pgvector() {
    suite=trixie keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    archive=$(apt-get indextargets --format "\$(REPO_URI)" \
        'Created-By: Packages' 'Origin: Debian' 'Component: main' | head -n 1)
    if [ -z "$archive" ] || [ ! -e "$keyring" ]; then
        fail "this release has no package postgresql-$major-pgvector" \
            "install pgvector 0.8 or later for PostgreSQL $major, then run this again"
    fi

    work=$scratch/pgvector
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/source" "$work/headers"
    echo "deb-src [signed-by=$keyring] $archive $suite main" >"$work/sources.list"
    cat >"$work/apt.conf" <<EOF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$work/lists";
Dir::Cache "$work/cache";
EOF
    add_compiler
    echo "building pgvector from the source package of Debian $suite"
    if ! (
        cd "$work/source"
        get_headers
        APT_CONFIG="$work/apt.conf" && export APT_CONFIG
        apt-get update -qq && apt-get source -qq --download-only pgvector &&
            tar -xzf pgvector_*.orig.tar.gz && make_pgvector -s
    ) >"$work/log" 2>&1; then
        tail -n 30 "$work/log" >&2
        fail "building pgvector failed" "see above; or install pgvector 0.8 or later yourself"
    fi
    (cd "$work/source" && make_pgvector -s install "DESTDIR=$work/files") >/dev/null
    record_lines pgvector "$(cd "$work/files" && find . -type f | cut -c2-)"
    as_root cp -R --no-preserve=ownership "$work/files/." /
    echo "pgvector belongs to no package: its files are listed in $record"
    remove_compiler
}

# with_llvm=no: no bitcode, so no clang. OPTFLAGS: for any CPU, not for this one alone.
make_pgvector() {
    make -C pgvector-*/ with_llvm=no OPTFLAGS= "PG_CONFIG=$(command -v "$pg_config")" \
        "includedir_server=$headers" "$@"
}

# The headers' package wants clang and llvm, a gigabyte that nothing here needs: it is looked
# into, and not installed.
get_headers() {
    [ ! -e "$headers/postgres.h" ] || return 0
    fit "postgresql-server-dev-$major"
    # shellcheck disable=SC2086  # one word
    apt-get download -qq $fitted
    dpkg-deb -x postgresql-server-dev-*.deb "$work/headers"
    headers=$work/headers$headers
}

# What the compiler brings goes again when it has done its work.
add_compiler() {
    compiler=''
    if ! echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1; then
        apt_install gcc libc6-dev
        compiler=$(echo "$simulated" | sed -n 's/^Inst \([^ ]*\) (.*/\1/p')
    fi
}

remove_compiler() {
    [ -n "$compiler" ] || return 0
    echo "removing the compiler again"
    # shellcheck disable=SC2086  # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get remove -y -qq -o Dpkg::Use-Pty=0 $compiler >/dev/null
    # shellcheck disable=SC2086  # a list of words
    printf 'package %s\n' $compiler >"$scratch/removed"
    grep -vxFf "$scratch/removed" "$record" >"$scratch/record" || true
    as_root cp "$scratch/record" "$record"
}

# --- main ------------------------------------------------------------------------

major=$(major_asked_for)
missing=$(missing_packages "${major:-NN}")
if [ -z "$missing" ] && has_extension vector; then
    exit 0
fi

has_extension vector || missing="$missing postgresql-${major:-NN}-pgvector"
missing=$(echo "$missing" | xargs)      # on one line
if ! command -v apt-get >/dev/null; then
    fail "missing, and there is no apt-get to install it: $missing" \
        "install PostgreSQL with PL/Python, what extensions are built with (pgxs.mk), pgvector, make, and Python with venv"
fi
if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    fail "missing, and installing needs root or sudo: $missing" \
        "ask an administrator to run, in a copy of this directory:  make deps"
fi
case $(pg --bindir) in
    "" | /usr/lib/postgresql/*) ;;
    *)
        ! missing_packages NN | grep -q postgresql ||
            fail "$(command -v "$pg_config") is not Debian's, and lacks what these packages have: $missing" \
                "build that PostgreSQL with PL/Python (--with-python), or give another PG_CONFIG"
        ;;
esac

drop_in='' scratch=$(mktemp -d)
chmod 755 "$scratch"            # apt fetches as a user of its own
trap 'if [ -n "$drop_in" ]; then remove_drop_in; fi; rm -rf "$scratch"' EXIT

apt-cache show postgresql 2>/dev/null | grep -q . || apt_update
if [ -z "$major" ]; then
    [ "$pg_config" = pg_config ] ||
        fail "there is no program $pg_config" "give PG_CONFIG the pg_config of a PostgreSQL, or leave it out"
    major=$(apt-cache policy postgresql | sed -n 's/.*Candidate: \([0-9]*\).*/\1/p')
fi

missing=$(missing_packages "$major")
# shellcheck disable=SC2086  # a list of words
case $missing in
    *"postgresql-$major"*) install_server $missing ;;
    ?*) apt_install $missing ;;
esac

if ! has_extension vector; then
    if apt-cache show "postgresql-$major-pgvector" 2>/dev/null | grep -q .; then
        apt_install "postgresql-$major-pgvector"
    else
        headers=$(pg --includedir-server)
        build_pgvector
    fi
fi

missing=$(missing_packages "$major")
if [ -n "$missing" ] || ! has_extension vector; then
    fail "$(command -v "$pg_config") still lacks what these packages have: $(echo "$missing" | xargs) pgvector" \
        "if another PostgreSQL was meant, name its pg_config: PG_CONFIG=..."
fi
