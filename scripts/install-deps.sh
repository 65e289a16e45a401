#!/bin/sh
# Installs what visrec needs and is not there yet; quick when nothing is missing.
#
#   [PG_CONFIG=/usr/lib/postgresql/17/bin/pg_config] scripts/install-deps.sh
#
# That is, for the PostgreSQL of PG_CONFIG (by default the newest installed, else the
# release's own): the server, PL/Python, the files that extensions build with, and
# pgvector; and Python's venv module. No server is started and no cluster is made. A server
# that is there stays as it is: UPGRADE=yes allows apt to upgrade it, and so to restart it.
set -eu
cd "$(dirname "$0")/.."

pg_config=${PG_CONFIG:-pg_config}
python=/usr/bin/python3         # the build that Debian's PL/Python embeds

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
    [ -e "$(pg --includedir-server)/postgres.h" ] || echo "postgresql-server-dev-$1"
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
    check_no_upgrade "$@"
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
    # shellcheck disable=SC2086  # a list of words
    upgrade=$(apt-get install -s --no-install-recommends $fitted 2>/dev/null |
        sed -n 's/^Inst \(postgresql-[0-9]*\) \[\([^]]*\)\] (\([^ ]*\) .*/\1 from \2 to \3/p' | head -n 1)
    if [ -n "$upgrade" ] && [ "${UPGRADE:-}" != yes ]; then
        fail "to install $* would upgrade $upgrade, and restart its servers" \
            "UPGRADE=yes make deps, when that suits; or install packages of the server's own version first"
    fi
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
    apt_install dpkg-dev gcc libc6-dev

    work=$(mktemp -d)
    chmod 755 "$work"           # apt fetches as a user of its own
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/source"
    echo "deb-src [signed-by=$keyring] $archive $suite main" >"$work/sources.list"
    cat >"$work/apt.conf" <<EOF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$work/lists";
Dir::Cache "$work/cache";
EOF
    echo "building pgvector from the source package of Debian $suite"
    if ! (
        cd "$work/source"
        APT_CONFIG="$work/apt.conf" && export APT_CONFIG
        apt-get update -qq && apt-get source -qq pgvector && make_pgvector
    ) >"$work/log" 2>&1; then
        tail -n 30 "$work/log" >&2
        fail "building pgvector failed" "see above; or install pgvector 0.8 or later yourself"
    fi
    as_root make -s -C "$work"/source/pgvector-*/ install \
        with_llvm=no OPTFLAGS= "PG_CONFIG=$(command -v "$pg_config")" >/dev/null
}

# with_llvm=no: no bitcode, so no clang. OPTFLAGS: for any CPU, not for this one alone.
make_pgvector() {
    make -C pgvector-*/ with_llvm=no OPTFLAGS= "PG_CONFIG=$(command -v "$pg_config")"
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
        "install PostgreSQL with PL/Python and its development files, pgvector, make, and Python with venv"
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

drop_in='' work=''
trap 'if [ -n "$drop_in" ]; then remove_drop_in; fi; rm -rf "$work"' EXIT

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
        build_pgvector
    fi
fi

missing=$(missing_packages "$major")
if [ -n "$missing" ] || ! has_extension vector; then
    fail "$(command -v "$pg_config") still lacks what these packages have: $(echo "$missing" | xargs) pgvector" \
        "if another PostgreSQL was meant, name its pg_config: PG_CONFIG=..."
fi
