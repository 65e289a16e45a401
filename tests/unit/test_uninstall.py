"""scripts/uninstall.sh, with a psql and a dpkg-query that are scripts of this test's."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# psql -XAtq -h … -p … -d DATABASE -c STATEMENT
PSQL = """#!/bin/sh
case "$7 $9" in
    *datname*) echo postgres; echo shop ;;
    "shop "*"'vector'") echo "{vector}" ;;
    "shop "*"'visrec'") echo 1 ;;
    "shop "*attachment) echo public.posts ;;
esac
"""
DPKG_QUERY = """#!/bin/sh
case "$*" in *gone*) exit 1 ;; *) echo "install ok installed" ;; esac
"""


class Machine:
    """A server with visrec in the database shop; a pgvector that make deps built."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home, self.bin, self.data = root / "home", root / "bin", root / "data"
        self.vector = root / "share" / "vector.so"
        sockets = root / "var/run/postgresql"
        for directory in (
            self.home / "python",
            self.bin,
            self.data / "images",
            self.vector.parent,
            sockets,
        ):
            directory.mkdir(parents=True)
        (self.data / "images" / "mine.jpg").touch()
        self.vector.touch()
        self.record = self.home / "installed-by-make-deps"
        self.record.write_text(f"package gone\npackage kept\npgvector {self.vector}\n")
        here = os.open(sockets, os.O_RDONLY)  # a socket's path may not be long
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{here}/.s.PGSQL.5433")
        os.close(here)
        self.program("dpkg-query", DPKG_QUERY)
        self.program("setpriv", '#!/bin/sh\nshift 3\nexec "$@"\n')
        self.program("psql", PSQL.format(vector="1"))

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def uninstall(self, **more: str) -> str:
        done = subprocess.run(
            [REPOSITORY / "scripts" / "uninstall.sh", self.home, self.bin, self.data],
            env={
                **os.environ,
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "VISREC_ROOT": str(self.root),
                **more,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_it_says_what_is_attached_what_stays_and_which_packages_came(machine: Machine) -> None:
    said = machine.uninstall()
    assert 'database "shop" on port 5433 has the extension; attached: public.posts' in said
    assert "DROP EXTENSION visrec" in said
    assert "\n  apt-get remove kept\n" in said
    assert f"{machine.data / 'images'} stays" in said
    assert (machine.data / "images" / "mine.jpg").exists()
    assert not (machine.home / "python").exists()


def test_a_pgvector_in_use_stays_until_that_is_asked_for(machine: Machine) -> None:
    assert "pgvector, which make deps built, stays" in machine.uninstall()
    assert machine.vector.exists()
    assert "removed the pgvector" in machine.uninstall(PGVECTOR="remove")
    assert not machine.vector.exists()
    assert not machine.home.exists()


def test_a_pgvector_that_no_database_has_goes(machine: Machine) -> None:
    machine.program("psql", PSQL.format(vector=""))
    assert "removed the pgvector" in machine.uninstall()
    assert not machine.vector.exists()


def test_where_a_server_does_not_answer_it_may_be_in_use(machine: Machine) -> None:
    machine.program("psql", "#!/bin/sh\nexit 2\n")
    said = machine.uninstall()
    assert "port 5433 does not answer" in said
    assert "SELECT * FROM visrec.attached" in said
    assert machine.vector.exists()


def test_a_pgvector_of_somebody_elses_is_not_touched(machine: Machine) -> None:
    machine.record.write_text("package kept\n")
    machine.program("psql", PSQL.format(vector=""))
    machine.uninstall(PGVECTOR="remove")
    assert machine.vector.exists()
