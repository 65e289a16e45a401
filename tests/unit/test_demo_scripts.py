"""What `make demo` runs in the shell: quietly.sh, and what cluster.sh keeps."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

QUIETLY = REPOSITORY / "scripts/quietly.sh"


def quietly(log: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [QUIETLY, log, "making things", *command], capture_output=True, text=True, check=False
    )


def test_the_noise_goes_to_the_log_and_nowhere_else(tmp_path: Path) -> None:
    done = quietly(tmp_path / "new/log", "sh", "-c", "echo noise; echo more >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "new/log").read_text() == "noise\nmore\n"


def test_on_failure_it_shows_the_end_of_the_log_and_names_it(tmp_path: Path) -> None:
    script = "seq 100; echo 'error: no room' >&2; echo 'make[1]: *** [x] Error 7'; exit 7"
    done = quietly(tmp_path / "log", "sh", "-c", script)
    assert done.returncode == 7
    lines = done.stderr.splitlines()
    assert lines[-2:] == ["error: no room", f"failed: making things; the whole log: {tmp_path}/log"]
    assert lines[0] == "82"
    assert "make[1]" in (tmp_path / "log").read_text()


def test_a_log_that_cannot_be_written_is_an_error_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = quietly(tmp_path / "file/log", "touch", str(tmp_path / "ran"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/file/log cannot be written")
    assert done.stderr.splitlines()[1:] == [f"  fix: sudo rm -rf {tmp_path}/file"]
    assert not (tmp_path / "ran").exists()


def said_until(end: str, output: int) -> str:
    """What is written to `output`, up to `end`."""
    said = ""
    while end not in said:
        more = os.read(output, 4096).decode()
        assert more, said
        said += more
    return said


@pytest.mark.parametrize("terminal", [False, True])
def test_what_takes_longer_is_announced_with_its_log(tmp_path: Path, terminal: bool) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    os.mkfifo(gate)
    script = f"printf 'unpacking\\033[1m a thing\\n'; cat {gate}"
    output, written = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen(
        [QUIETLY, log, "making things", "sh", "-c", script], stdout=written
    ) as running:
        os.close(written)
        end = "unpacking[1m a thing" if terminal else "\n"
        said = said_until(end, output)
        if not terminal:
            time.sleep(1.2)  # on a terminal the next line would come within a second
        gate.write_text("")  # a pipe: the command has been waiting for this
        assert running.wait() == 0
    if not terminal:
        said += os.read(output, 4096).decode()
    os.close(output)
    first, _, rest = said.replace("\r\n", "\n").partition("\n")
    assert first == f"making things (log: {log})"
    assert ("0:0" in rest) == terminal


def test_demo_stop_keeps_what_was_fetched_and_says_so(tmp_path: Path) -> None:
    model = tmp_path / "_kept/models/clip"
    model.mkdir(parents=True)
    (tmp_path / "demo/shared").mkdir(parents=True)
    done = subprocess.run(
        ["make", "-s", "demo-stop"],
        cwd=REPOSITORY,
        env=os.environ | {"VISREC_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"kept: the model {model} (rm -r removes it)\n"
    assert model.is_dir()
    assert not (tmp_path / "demo").exists()


def test_the_demo_of_pixels_needs_no_torch() -> None:
    """What is said to the make inside, which installs."""
    done = subprocess.run(
        ["make", "-n", "demo", "MODEL=pixels"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "demo-server 'TORCH=any'" in done.stdout
