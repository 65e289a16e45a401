"""pg_upgrade of a cluster in which tables are attached."""

import re
import subprocess

import pytest

from tests.servers import Server, as_server, bindir, server_directory

from .furnished import (
    ATTACH,
    TABLES,
    access,
    check_detach_and_drop,
    check_reader,
    check_works,
    furnish,
    state,
)


def same_or_later():
    """The directories of programs of this PostgreSQL and of later ones installed beside it."""
    own = version(bindir())
    beside = bindir().parent.parent.glob("*/bin")
    return [
        programs
        for programs in sorted(beside)
        if (programs / "pg_upgrade").exists() and version(programs) >= own
    ]


def version(programs):
    said = subprocess.run([programs / "postgres", "--version"], capture_output=True, check=True)
    return int(re.search(rb"\d+", said.stdout).group())


def has_extension(server):
    server.start()
    with server.connect() as connection:
        found = connection.execute("SELECT FROM pg_available_extensions WHERE name = 'visrec'")
    server.stop()
    return found.rowcount == 1


@pytest.mark.slow
def test_pg_upgrade(roots, paths):
    for programs in same_or_later():
        with server_directory() as directory:
            old, new = Server(directory / "old"), Server(directory / "new", programs)
            for server in (old, new):
                as_server("mkdir", "--mode=700", server.directory)
                server.initialize()
            if not has_extension(new):
                continue
            upgrade_and_check(old, new, roots, paths)
            print(f"pg_upgrade from PostgreSQL {version(bindir())} to {version(programs)}")


def upgrade_and_check(old, new, roots, paths):
    old.start()
    with old.connect() as connection:
        connection.execute("CREATE EXTENSION visrec CASCADE")
        furnish(connection, roots, paths)
        before, allowed = state(connection), access(connection)
    old.stop()

    as_server(
        new.programs / "pg_upgrade",
        *("--old-bindir", old.programs, "--new-bindir", new.programs),
        *("--old-datadir", old.data, "--new-datadir", new.data),
        *("--socketdir", new.directory, "--username", "postgres"),
        cwd=new.directory,
    )
    new.start()
    with new.connect() as connection:
        assert state(connection) == before
        assert access(connection) == allowed
        check_reader(connection)
        for table in TABLES:
            check_works(connection, table, roots, paths)
        for statement in ATTACH:
            connection.execute(statement)
        check_reader(connection)
        check_detach_and_drop(connection)
    new.stop()
