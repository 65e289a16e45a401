"""PostgreSQL's programs, and servers that a test has to itself."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator


def bindir() -> Path:
    """Where the programs of the PostgreSQL under test are."""
    config = os.environ.get("PG_CONFIG", "pg_config")
    found = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def program(name: str) -> str:
    return str(bindir() / name)


def as_server(*command: str | Path, cwd: Path | str = "/", **environment: str) -> None:
    """Run a program as the user that owns servers, which is never root, with a bare environment.

    Its output goes to a file: a server that it starts keeps that open, and nobody waits for it.
    """
    become: list[str] = []
    user = pwd.getpwuid(os.getuid())
    if user.pw_uid == 0:
        user = pwd.getpwnam("postgres")
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    environment |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    environment |= {"HOME": user.pw_dir, "USER": user.pw_name}
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [*become, *command],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
        output.seek(0)
        assert done.returncode == 0, f"{command[0]} failed:\n{output.read()}"


def client(
    name: str, *arguments: str, database: str, text: bytes | None = None, silent: bool = False
) -> bytes:
    """Run a client program on a database of the tests' cluster; what it says.

    ``silent``: it must complain of nothing, warnings included.
    """
    done = subprocess.run(
        [program(name), *arguments],
        env=os.environ | {"PGDATABASE": database},
        input=text,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{name} failed:\n{done.stderr.decode()}"
    assert not (silent and done.stderr), f"{name} complained:\n{done.stderr.decode()}"
    return done.stdout


class Server:
    """A PostgreSQL server in a directory that only its user may enter, with its socket there."""

    def __init__(self, directory: Path, programs: Path | None = None) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.programs = programs or bindir()

    def initialize(self) -> None:
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"]
        as_server(self.programs / "initdb", "-D", self.data, *options, "--no-sync")

    def start(self) -> None:
        settings = f"-c listen_addresses= -c unix_socket_directories={self.directory} -c fsync=off"
        options = ["-w", "-s", "-D", self.data, "-l", self.directory / "log"]
        as_server(self.programs / "pg_ctl", "start", *options, "-o", f"-p 5432 {settings}")

    def stop(self) -> None:
        as_server(self.programs / "pg_ctl", "stop", "-w", "-s", "-m", "fast", "-D", self.data)

    def connect(
        self, dbname: str = "postgres", **options: Any
    ) -> psycopg.Connection[tuple[Any, ...]]:
        where = {"host": str(self.directory), "port": 5432, "user": "postgres"}
        return psycopg.connect(dbname=dbname, autocommit=True, **(where | options))


@contextmanager
def server_directory() -> Iterator[Path]:
    """An empty directory of the server's user; a server still in it is stopped at the end.

    Its path is short, since that of a socket may not be long.
    """
    directory = Path(tempfile.mkdtemp(prefix="visrec-", dir="/var/tmp"))
    if os.getuid() == 0:
        server = pwd.getpwnam("postgres")
        os.chown(directory, server.pw_uid, server.pw_gid)
    try:
        yield directory
    finally:
        for running in directory.rglob("postmaster.pid"):
            as_server(program("pg_ctl"), "stop", "-s", "-m", "immediate", "-D", running.parent)
        shutil.rmtree(directory)


def wait_until(true: Any, seconds: float = 20) -> None:
    """Wait until ``true()`` is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
