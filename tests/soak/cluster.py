"""A cluster that is killed and comes back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]

SCRIPT = Path(__file__).parents[2] / "scripts" / "cluster.sh"

RESTART_WITHIN = 120.0
"""Seconds for a killed server's backends to end, and for the new one to recover."""


class Cluster:
    """A cluster of scripts/cluster.sh, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._learn_address()

    @classmethod
    def start(cls, name: str) -> Cluster:
        """Made if need be, and started."""
        subprocess.run([SCRIPT, "start", name], check=True)
        return cls(name)

    def remove(self) -> None:
        subprocess.run([SCRIPT, "stop", self.name, "--remove"], check=True)

    def _learn_address(self) -> None:
        told = subprocess.run(
            [SCRIPT, "env", self.name], check=True, capture_output=True, text=True
        ).stdout
        self._settings = dict(re.findall(r"^export (\w+)=(.*)$", told, re.MULTILINE))
        self.shared = Path(self._settings["VISREC_SHARED_DIR"])

    def connect(self) -> Connection:
        """A session whose statements are transactions, and end one day."""
        return psycopg.connect(
            host=self._settings["PGHOST"],
            port=self._settings["PGPORT"],
            user=self._settings["PGUSER"],
            dbname="postgres",
            passfile=self._settings["PGPASSFILE"],
            options="-c statement_timeout=120s -c client_min_messages=error",
            autocommit=True,
        )

    def postmaster(self) -> int:
        with self.connect() as connection:
            return number(
                connection, "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int"
            )

    def restart(self, killed: int) -> float:
        """Start after that postmaster was killed; the seconds it took.

        Its backends keep its memory until they end, and it seems to run until it is reaped.
        """
        started = time.monotonic()
        told = "the killed process is still there"
        while time.monotonic() - started < RESTART_WITHIN:
            if not Path(f"/proc/{killed}").exists():
                tried = subprocess.run(
                    [SCRIPT, "start", self.name], check=False, capture_output=True, text=True
                )
                if tried.returncode == 0:
                    self._learn_address()
                    self.wait()
                    return time.monotonic() - started
                told = tried.stderr
            time.sleep(0.2)
        raise TimeoutError(f"the cluster does not start again: {told}")

    def wait(self) -> None:
        """Until it takes connections."""
        until = time.monotonic() + RESTART_WITHIN
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


def lost(connection: Connection) -> bool:
    """Whether the connection is gone, or ends within a second; else its transaction is undone.

    When the server dies, a statement may fail before its session ends.
    """
    try:
        for _ in range(5):
            connection.rollback()
            connection.execute("SELECT")
            time.sleep(0.2)
    except psycopg.Error:
        return True
    return False


def number(connection: Connection, query: str, *values: object) -> int:
    """The one number that a query answers; -1 for NULL or no row."""
    row = connection.execute(query.encode(), values).fetchone()
    return -1 if row is None or row[0] is None else int(row[0])


def encoder_pid(connection: Connection) -> int:
    """The encoder process; -1 where none runs."""
    return number(connection, "SELECT pid FROM visrec.encoder_status()")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def gone(pid: int, within: float = 10.0) -> bool:
    """Whether the process ends within so many seconds. One that nobody has reaped has ended."""
    until = time.monotonic() + within
    while True:
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return True
        if status.rpartition(")")[2].split()[0] == "Z":
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
