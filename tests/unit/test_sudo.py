"""What asks sudo by itself, and what it hands on, with a sudo that is a script of this test's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

HANDED_ON = {
    "HF_ENDPOINT": "https://user:secret@mirror.example",
    "HTTPS_PROXY": "http://proxy.example:3128",
    "https_proxy": "http://proxy.example:3128",
    "NO_PROXY": "localhost",
}


@pytest.fixture
def machine() -> Iterator[Path]:
    """A machine on which nobody is root: ``bin`` for the PATH, and visrec installed in ``home``."""
    with tempfile.TemporaryDirectory() as name:  # not pytest's own, which only its user enters
        Path(name).chmod(0o755)
        furnish(Path(name))
        yield Path(name)


def furnish(root: Path) -> None:
    script = (REPOSITORY / "scripts" / "visrec").read_text()
    programs = {
        "bin/id": "echo 1000",
        "bin/sudo": 'echo "sudo $*"',
        "home/venv/bin/python": 'echo "python"',
        "visrec": script.replace("@VISREC_HOME@", str(root / "home")),
    }
    for name, text in programs.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)


def run(machine: Path, *command: str, **environment: str) -> str:
    path = f"{machine / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        env={"PATH": path, "PIPX": "no", "AWS_SECRET": "no", **environment},
        capture_output=True, text=True, check=True, user=SOMEBODY, cwd="/",
    ).stdout  # fmt: skip


NOWHERE = "/proc/models"
"""Where only root could write; so the tests run as somebody else."""

SOMEBODY = 65534 if os.geteuid() == 0 else None


@pytest.mark.parametrize("action", ["pull", "compile"])
def test_visrec_asks_sudo_where_only_root_may_write(machine: Path, action: str) -> None:
    command = (str(machine / "visrec"), "model", action, "clip-ViT-B-32")
    told = run(machine, *command, VISREC_MODEL_DIRECTORY=NOWHERE, **HANDED_ON)
    words = told.split()
    kept = set(words[1].removeprefix("--preserve-env=").split(","))
    assert kept == HANDED_ON.keys() | {"VISREC_MODEL_DIRECTORY"}
    assert words[2:] == ["--", *command]
    assert "secret" not in told


@pytest.mark.parametrize(
    "arguments",
    [
        ("model", "list"),
        ("model", "pull", "x", "--directory", "/somewhere"),
        ("model", "pull", "--help"),
        ("model",),
        (),
    ],
)
def test_visrec_asks_for_nothing_more_than_it_needs(
    machine: Path, arguments: tuple[str, ...]
) -> None:
    told = run(machine, str(machine / "visrec"), *arguments, VISREC_MODEL_DIRECTORY=NOWHERE)
    assert told == "python\n"


def test_visrec_asks_nobody_where_the_user_may_write(machine: Path) -> None:
    (machine / "models").mkdir()
    (machine / "models").chmod(0o777)
    command = (str(machine / "visrec"), "model", "pull", "x")
    told = run(machine, *command, VISREC_MODEL_DIRECTORY=str(machine / "models" / "new"))
    assert told == "python\n"


def test_as_root_hands_on_the_hubs_address_and_proxies(machine: Path) -> None:
    shutil.copy(REPOSITORY / "scripts" / "as-root.sh", machine)
    command = (str(machine / "as-root.sh"), "visrec", "model", "pull", "x")
    told = run(machine, *command, PIP_INDEX_URL="https://index.example", **HANDED_ON)
    kept = set(told.split()[1].removeprefix("--preserve-env=").split(","))
    assert kept == HANDED_ON.keys() | {"PIP_INDEX_URL"}
