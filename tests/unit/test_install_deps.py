"""scripts/install-deps.sh, with apt and a PostgreSQL that are scripts of this test's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DEBIAN = Path("/usr/lib/postgresql")  # where the script expects Debian's PostgreSQL

PG_CONFIG = """
case $1 in
    --version) echo "PostgreSQL 15.18" ;;
    --bindir) echo {debian}/../../..{root}/bin ;;
    --sharedir) echo {root}/share ;;
    --pgxs) echo {root}/pgxs.mk ;;
esac
"""
APT_GET = """
echo "$@" >>{root}/apt.log
case " $* " in
    *" -s "*)
        echo "Inst libpython3.11 (3.11.2 Debian:12 [amd64])"
        case "$*" in *=15.18-1*) ;; *) echo "{simulated}" ;; esac ;;
    *" install "*) touch {root}/share/extension/plpython3u.control ;;
esac
"""
APT_CACHE = """
case $1 in
    madison) echo " $2 | {version} | http://archive bookworm/main amd64 Packages" ;;
    *) echo "Package: $2" ;;
esac
"""


class Machine:
    """PostgreSQL 15.18 without PL/Python, and an archive with one version of everything."""

    def __init__(self, root: Path, version: str) -> None:
        self._root = root
        self.log = root / "apt.log"
        self.home = root / "home"
        for name in ("bin", "share/extension"):
            (root / name).mkdir(parents=True)
        (root / "share/extension/vector.control").touch()
        (root / "pgxs.mk").touch()
        newer = f"Inst postgresql-15 [15.18-1] ({version} Debian:12 [amd64])"
        simulated = newer if version != "15.18-1" else ""
        for name, text in {
            "initdb": "",
            "pg_config": PG_CONFIG.format(debian=DEBIAN, root=root),
            "apt-get": APT_GET.format(root=root, simulated=simulated),
            "apt-cache": APT_CACHE.format(version=version),
            "dpkg-query": "echo 15.18-1",
            "sudo": 'exec "$@"',
        }.items():
            path = root / "bin" / name
            path.write_text("#!/bin/sh\n" + text)
            path.chmod(0o755)

    def install(self, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self._root / 'bin'}:{os.environ['PATH']}",
            "VISREC_HOME": str(self.home),
            "PG_CONFIG": str(self._root / "bin" / "pg_config"),
            **more,
        }
        return subprocess.run(
            [REPOSITORY / "scripts" / "install-deps.sh"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line.split()[-1] for line in lines if " -s " not in line and "install" in line]


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    if not DEBIAN.is_dir():
        pytest.skip("needs a directory of Debian's PostgreSQL to go by")
    return Machine(tmp_path, request.param)


@pytest.mark.parametrize("machine", ["15.18-1"], indirect=True)
def test_the_version_of_the_server_that_is_there_is_installed(machine: Machine) -> None:
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert machine.installed() == ["postgresql-plpython3-15=15.18-1"]


@pytest.mark.parametrize("machine", ["15.20-1"], indirect=True)
def test_a_server_is_not_upgraded_without_a_word(machine: Machine) -> None:
    done = machine.install()
    assert done.returncode == 1
    assert "would upgrade postgresql-15 from 15.18-1 to 15.20-1, and restart" in done.stderr
    assert "fix: UPGRADE=yes make deps" in done.stderr
    assert machine.installed() == []
    done = machine.install(UPGRADE="yes")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == ["postgresql-plpython3-15"]


@pytest.mark.parametrize("machine", ["15.18-1"], indirect=True)
def test_what_was_not_there_before_is_recorded_and_nothing_else(machine: Machine) -> None:
    done = machine.install()
    assert done.returncode == 0, done.stderr
    record = machine.home / "installed-by-make-deps"
    assert record.read_text() == "package libpython3.11\n"  # not the server, which is upgraded
