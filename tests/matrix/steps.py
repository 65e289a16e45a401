"""What is done in a tree, and what must have come of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.matrix import containers
from tests.matrix.image import build

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.image import Stage
    from tests.matrix.tree import Tree

BF16 = ("amx_bf16", "avx512_bf16", "bf16")
VNNI = ("avx512_vnni", "avx_vnni")
MAKE = 'make ${MATRIX_TORCH:+TORCH="$MATRIX_TORCH"}'


class Failed(Exception):
    """A step did not do what it should."""


class Same(Exception):
    """There is nothing to do that another step has not done."""


def must(tree: Tree, command: str, user: str = "root") -> None:
    status = tree.run(command, user)
    if status != 0:
        raise Failed(f"exit status {status} of: {command}")


def demo(tree: Tree) -> None:
    """As README shows it, with the model that has no weights. Needs no torch."""
    must(tree, "make demo MODEL=pixels")


def venv(tree: Tree) -> None:
    """With torch: what the demo of CLIP needs from nothing, but for CLIP."""
    must(tree, MAKE + " venv")


def test(tree: Tree) -> None:
    must(tree, MAKE + ' test ${MATRIX_TESTS:+TESTS="$MATRIX_TESTS"}')


def test_without_bf16(tree: Tree) -> None:
    _test_masked(tree, *BF16)


def test_without_vnni(tree: Tree) -> None:
    _test_masked(tree, *BF16, *VNNI)


def _test_masked(tree: Tree, *flags: str) -> None:
    has = set(Path("/proc/cpuinfo").read_text().split())
    if not has & set(flags):
        raise Same
    tree.mask(*flags)
    try:
        test(tree)
    finally:
        tree.unmask()


# --- a server that was there first -------------------------------------------------

SERVED = "psql -d shop -AtX -c"


def serve(tree: Tree) -> None:
    """Debian's own cluster, with a database and a session that stays open."""
    must(tree, "pg_ctlcluster 15 main start")
    must(tree, "createdb shop && psql -d shop -c 'CREATE TABLE old AS SELECT 1 AS id'", "postgres")
    tree.start("PGAPPNAME=kept psql -d shop -c 'SELECT pg_sleep(1e6)'", "postgres")
    for _ in range(100):
        if _kept(tree):
            return
        tree.run("sleep 0.1")
    raise Failed("the session to be kept was not opened")


def _kept(tree: Tree) -> str:
    """The session, when it began, and when the server did."""
    return tree.ask(
        f'{SERVED} "SELECT pid, backend_start, pg_postmaster_start_time()'
        " FROM pg_stat_activity WHERE application_name = 'kept'\"",
        "postgres",
    )


def deps(tree: Tree) -> None:
    before = _kept(tree)
    must(tree, "make deps")
    _unharmed(tree, before)


def _unharmed(tree: Tree, before: str) -> None:
    if not before or _kept(tree) != before:
        raise Failed(f"the server or its session is another: {before!r}, {_kept(tree)!r}")


def install(tree: Tree) -> None:
    """README's section, in the database of the server that was there."""
    before = _kept(tree)
    must(tree, "make deps venv TORCH=none && make && make install")
    must(
        tree,
        "/usr/local/lib/visrec/venv/bin/python demo/draw_pictures.py"
        " /var/lib/visrec/images --count 48",
    )
    must(tree, "psql -d shop -v ON_ERROR_STOP=1 -f tests/matrix/shop.sql", "postgres")
    found = tree.ask(f"{SERVED} 'SELECT count(*) FROM similar_posts(1, 5)'", "postgres")
    if found != "5":
        raise Failed(f"similar_posts gave {found} rows, not 5")
    _unharmed(tree, before)


def uninstall(tree: Tree) -> None:
    """It says what is attached; what make deps put there and no package owns goes, if unused."""
    before = _kept(tree)
    must(tree, "make uninstall >/tmp/said")
    said = tree.ask("cat /tmp/said")
    for fact in ('"shop"', "public.posts", "apt-get remove"):
        if fact not in said:
            raise Failed(f"make uninstall said nothing of {fact}: {said}")
    must(tree, "[ ! -e /usr/local/lib/visrec/python ] && [ ! -e /usr/local/bin/visrec ]")
    must(tree, "[ -e /usr/lib/postgresql/15/lib/vector.so ]")  # the database uses it
    must(
        tree,
        "psql -d shop -v ON_ERROR_STOP=1 -c 'DROP EXTENSION visrec'"
        " -c 'DROP EXTENSION vector CASCADE'",
        "postgres",
    )
    must(tree, "make uninstall")
    must(tree, "[ ! -e /usr/lib/postgresql/15/lib/vector.so ] && [ ! -e /usr/local/lib/visrec ]")
    _unharmed(tree, before)


# --- the image ---------------------------------------------------------------------

PORT = "54490"  # containers have 5432 to themselves; a tree shares the machine's


def image(tree: Tree) -> None:
    """Dockerfile.postgres to its last line, on a tree like the image it begins with."""
    containers.be_like_the_base(tree)
    _built[tree.root] = build(
        tree, containers.variables(tree), {"TORCH": tree.settings["MATRIX_TORCH"] or "cpu"}
    )


def container(tree: Tree) -> None:
    """README's one command: the database is made, the server is healthy, similar_posts answers."""
    stage = _built[tree.root]
    here = stage.tree
    before = containers.server_version(tree)
    if containers.server_version(here) != before:
        raise Failed(f"the server was {before} and is {containers.server_version(here)}")
    asked = {**stage.variables, "VISREC_EXAMPLE": "yes", "PGPORT": PORT}
    here.settings |= asked
    must(
        here, "bash /srv/visrec/tests/matrix/entrypoint.sh /docker-entrypoint-initdb.d", "postgres"
    )
    here.start(
        'exec postgres -c listen_addresses=127.0.0.1 -c shared_preload_libraries=""', "postgres"
    )
    must(here, f"for n in $(seq 100); do {stage.healthcheck} && exit 0; sleep 0.2; done; exit 1")
    found = here.ask("psql -AtX -c 'SELECT count(*) FROM similar_posts(1, 5)'", "postgres")
    if found != "5":
        raise Failed(f"similar_posts gave {found} rows, not 5")
    must(here, "pg_ctl stop -w -m fast", "postgres")


_built: dict[Path, Stage] = {}

STEPS: dict[str, Callable[[Tree], None]] = {
    "demo": demo,
    "venv": venv,
    "test": test,
    "test-no-bf16": test_without_bf16,
    "test-no-vnni": test_without_vnni,
    "serve": serve,
    "deps": deps,
    "install": install,
    "uninstall": uninstall,
    "image": image,
    "container": container,
}
