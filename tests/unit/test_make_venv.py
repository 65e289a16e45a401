"""scripts/make-venv.sh, with a pip that is a script of this test's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Stands in for the environment's Python: `-m pip`, and which build of torch is to be had where.
PIP = """#!/bin/sh
echo "$@" >>{root}/pip.log
case " $* " in
    *" --index-url "*) exit {pytorch} ;;
    *" --no-deps torch=="*+cpu*) exit {elsewhere} ;;
    *" --report "*)
        while [ "$1" != --report ]; do shift; done
        echo '"name": "torch" "name": "{besides}"' >"$2" ;;
esac
"""


class Machine:
    """A machine on which only ``pip`` says what can be had. 0: it can, 1: it cannot."""

    def __init__(
        self,
        root: Path,
        pytorch: int = 0,
        elsewhere: int = 1,
        besides: str = "sympy",
        processor: str = "aarch64",
    ) -> None:
        (root / "bin").mkdir()
        uname = root / "bin" / "uname"
        uname.write_text(f"#!/bin/sh\necho {processor}\n")
        uname.chmod(0o755)
        self.root = root
        self.environment = root / "home" / "venv"
        self.scripts = root / "scripts"
        shutil.copytree(REPOSITORY / "scripts", self.scripts)
        fake = root / "fake-python"
        fake.write_text(
            PIP.format(root=root, pytorch=pytorch, elsewhere=elsewhere, besides=besides)
        )
        fake.chmod(0o755)
        python = root / "python3"  # the system's
        python.write_text(
            "#!/bin/sh\n"
            'case "$*" in -VV) echo 3 ;; "-m venv "*) mkdir -p "$3/bin"\n'
            f'cp {fake} "$3/bin/python" ;; esac\n'
        )
        python.chmod(0o755)
        script = self.scripts / "make-venv.sh"
        script.write_text(script.read_text().replace("python=/usr/bin/python3", f"python={python}"))

    def make(self, torch: str = "") -> subprocess.CompletedProcess[str]:
        (self.root / "pip.log").write_text("")
        requirements = REPOSITORY / "requirements" / "runtime.txt"
        return subprocess.run(
            [self.scripts / "make-venv.sh", self.environment, requirements, "--torch", torch],
            env={
                **os.environ,
                "VISREC_ROOT": str(self.root),
                "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def has_nvidia(self) -> None:
        driver = self.root / "proc/driver/nvidia/version"
        driver.parent.mkdir(parents=True)
        driver.touch()

    def asked_of_pip(self) -> list[str]:
        return (self.root / "pip.log").read_text().splitlines()

    def kind(self) -> str:
        return (self.environment / "visrec.stamp").read_text().split()[-1]


def test_without_a_gpu_torch_is_for_cpus_from_pytorchs_own_index(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    done = machine.make()
    assert done.returncode == 0, done.stderr
    assert machine.kind() == "cpu"
    assert "370 MB to fetch, 1.6 GB on disk" in done.stdout
    first = machine.asked_of_pip()[0]
    assert "--index-url https://download.pytorch.org/whl/cpu torch==" in first
    assert first.endswith("+cpu")


def test_where_that_index_is_out_of_reach_pips_own_way_is_taken(tmp_path: Path) -> None:
    machine = Machine(tmp_path, pytorch=1, elsewhere=0)
    assert machine.make().returncode == 0
    asked = machine.asked_of_pip()[1]
    assert "--index-url" not in asked
    assert asked.endswith("+cpu")


def test_a_build_without_cuda_is_taken_under_any_version(tmp_path: Path) -> None:
    machine = Machine(tmp_path, pytorch=1)
    assert machine.make().returncode == 0
    assert machine.kind() == "cpu"


@pytest.mark.parametrize(
    ("processor", "besides"), [("x86_64", "sympy"), ("aarch64", "nvidia-cudnn-cu13")]
)
def test_cuda_is_not_fetched_for_who_asks_for_cpus(
    tmp_path: Path, processor: str, besides: str
) -> None:
    machine = Machine(tmp_path, pytorch=1, besides=besides, processor=processor)
    done = machine.make("cpu")
    assert done.returncode == 1
    assert "comes with CUDA" in done.stderr
    assert "TORCH=cuda" in done.stderr
    assert not machine.environment.exists()
    real = [line for line in machine.asked_of_pip() if "--dry-run" not in line]
    assert all("+cpu" in line for line in real)
    done = machine.make("cuda")
    assert done.returncode == 0, done.stderr
    assert "2.9 GB to fetch" in done.stdout


def test_where_only_cuda_is_to_be_had_its_size_is_said_and_it_is_remembered(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, pytorch=1, processor="x86_64")
    done = machine.make()
    assert done.returncode == 0, done.stderr
    assert "comes with CUDA" in done.stderr
    assert "2.9 GB, 5.4 GB on disk" in done.stdout
    assert machine.kind() == "cuda"
    assert machine.make().stdout == ""  # it is there


def test_beside_an_nvidia_driver_torch_is_for_cuda(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.has_nvidia()
    assert machine.make().returncode == 0
    assert machine.kind() == "cuda"
    assert "+cpu" in machine.asked_of_pip()[0].partition("!=")[2]  # that one is not wanted


def test_what_is_there_stays_until_another_is_asked_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.make("none").returncode == 0
    assert not any("torch" in line for line in machine.asked_of_pip())
    assert machine.make("any").returncode == 0
    assert machine.asked_of_pip() == []
    assert machine.make().returncode == 0  # torch is asked for, of whichever kind
    assert machine.kind() == "cpu"
    machine.has_nvidia()
    assert machine.make().returncode == 0
    assert machine.asked_of_pip() == []
    assert machine.make("cuda").returncode == 0
    assert machine.kind() == "cuda"


@pytest.mark.parametrize("torch", ["gpu", "CPU"])
def test_another_kind_is_an_error(tmp_path: Path, torch: str) -> None:
    done = Machine(tmp_path).make(torch)
    assert done.returncode == 1
    assert "TORCH=cpu, cuda or none" in done.stderr
