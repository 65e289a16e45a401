"""The ``visrec`` command as its user sees it: output, exit status, and what is left on disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_clip as tiny
from tests.conftest import REPOSITORY
from tests.imitation_hub import Hub, as_on_the_hub
from visrec_db import __version__, cli, errors
from visrec_db.encoders import encoder
from visrec_db.models import models

WEIGHTS = f"{tiny.FOLDER}/model.safetensors"
PICKLED = f"{tiny.FOLDER}/pytorch_model.bin"


@pytest.fixture
def hub(tiny_clip: Path, tmp_path: Path) -> Iterator[Hub]:
    """With a small CLIP, in the layout of the real repository."""
    directory = shutil.copytree(tiny_clip, tmp_path / "on the hub")
    as_on_the_hub(directory)
    server = Hub("sentence-transformers/clip-ViT-B-32", directory)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.socket.close()  # not server_close: it waits for answers that stall


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "models"


def command(
    directory: Path, url: str, *arguments: str, most_bytes: int | None = None
) -> subprocess.Popen[str]:
    """The command in a process of its own: the hub's library reads its settings once.

    ``most_bytes``: as if the disk was full then.
    """

    def prepare() -> None:
        # Where the tests themselves run in the background, SIGINT is ignored, which is inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    return subprocess.Popen(
        [sys.executable, "-m", "visrec_db.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY / "python"),
            "HOME": str(directory.parent / "home"),
            "HF_ENDPOINT": url,
            "VISREC_MODEL_DIRECTORY": str(directory),
        },
        umask=0o077,
        preexec_fn=prepare,  # noqa: PLW1509
    )


def pull(
    directory: Path, url: str, name: str = "clip-ViT-B-32", seconds: float = 120
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `visrec model pull`."""
    with command(directory, url, "model", "pull", name) as process:
        output, problems = process.communicate(timeout=seconds)
    return process.returncode, output, problems


COMPILED = (
    *("visrec.json", "choice.json", "tokenizer.json"),
    *("image.xml", "image.bin", "text.xml", "text.bin"),
)


def left(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def test_a_pulled_model_is_whole_and_works(hub: Hub, directory: Path) -> None:
    status, output, problems = pull(directory, hub.url)
    assert (status, "Traceback" in problems) == (0, False), problems
    target = directory / "clip-ViT-B-32"
    assert output.splitlines() == [
        f"clip-ViT-B-32 is in {target}",
        output.splitlines()[1],
        "Register it: SELECT visrec.register_model('clip-ViT-B-32');",
    ]
    line = "clip-ViT-B-32 is compiled for pictures and texts (weights: f16; here it runs in "
    assert output.splitlines()[1].startswith(line)
    assert left(directory) == ["clip-ViT-B-32"]
    there = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    compiled = {f"openvino/{name}" for name in COMPILED}
    there -= {name for name in there if "image-int8" in name}  # where it is the fastest
    assert there == hub.files.keys() - {"onnx/model.onnx", PICKLED} | compiled
    assert all((target / name).read_bytes() == hub.files[name] for name in there - compiled)
    assert not (directory.parent / "home").exists()  # no copies elsewhere
    assert encoder.load(str(target)).dimension == tiny.DIMENSION
    for path in (directory, target, *target.rglob("*")):  # the server runs as another user
        assert path.stat().st_mode & 0o555 == (0o555 if path.is_dir() else 0o444), path

    hub.requests.clear()
    mark = models.fingerprint(str(target))
    assert pull(directory, hub.url)[:2] == (0, output)
    assert hub.requests == []
    assert models.fingerprint(str(target)) == mark


def test_a_model_that_does_not_load_leaves_nothing(hub: Hub, directory: Path) -> None:
    del hub.files["modules.json"]
    status, _, problems = pull(directory, hub.url)
    assert status == 1
    assert "contains neither modules.json nor config.json" in problems
    assert "Traceback" not in problems
    assert left(directory) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gone", "cannot be fetched: "),
        ("cut", "cannot be fetched: "),
        ("damaged", f'cannot be fetched: file "{WEIGHTS}" has other bytes than the hub\'s'),
    ],
)
def test_a_file_that_is_not_whole_leaves_nothing(
    hub: Hub, directory: Path, fault: str, message: str
) -> None:
    hub.faults[WEIGHTS] = fault
    status, _, problems = pull(directory, hub.url)
    assert (status, "Traceback" in problems) == (1, False), problems
    assert message in problems
    assert left(directory) == []


def test_a_damaged_small_file_is_found_too(hub: Hub, directory: Path) -> None:
    vocabulary = f"{tiny.FOLDER}/vocab.json"
    hub.faults[vocabulary] = "damaged"
    status, _, problems = pull(directory, hub.url)
    assert status == 1
    assert f'file "{vocabulary}" has other bytes than the hub\'s' in problems
    assert left(directory) == []


def test_without_a_checksum_nothing_is_believed(hub: Hub, directory: Path) -> None:
    hub.checksums = False
    status, _, problems = pull(directory, hub.url)
    assert status == 1
    assert "has no checksum on the hub" in problems
    assert left(directory) == []


def test_a_full_disk_leaves_nothing(hub: Hub, directory: Path) -> None:
    most = len(hub.files[WEIGHTS]) // 2
    run = command(directory, hub.url, "model", "pull", "clip-ViT-B-32", most_bytes=most)
    with run as process:
        _, problems = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in problems) == (1, False), problems
    assert "File too large" in problems
    assert left(directory) == []


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 143, "terminated"),
    ],
)
def test_a_signal_leaves_nothing(
    hub: Hub, directory: Path, number: int, status: int, word: str
) -> None:
    hub.faults[WEIGHTS] = "stall"
    with command(directory, hub.url, "model", "pull", "clip-ViT-B-32") as process:
        assert hub.stalled.wait(30)
        assert len(left(directory)) == 1
        process.send_signal(number)
        _, problems = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"visrec: {word}" in problems
    assert "Traceback" not in problems
    assert left(directory) == []


def test_what_was_killed_outright_is_removed_by_the_next(hub: Hub, directory: Path) -> None:
    hub.faults[WEIGHTS] = "stall"
    with command(directory, hub.url, "model", "pull", "clip-ViT-B-32") as process:
        assert hub.stalled.wait(30)
        [unfinished] = left(directory)
        hub.faults.clear()
        other = pull(directory, hub.url, "owner/no-such-model")  # nor does one remove another's
        assert (other[0], left(directory)) == (1, [unfinished])
        process.kill()
        process.communicate()
    assert left(directory) == [unfinished]
    assert pull(directory, hub.url)[0] == 0
    assert left(directory) == ["clip-ViT-B-32"]


def test_pickled_weights_will_do_and_have_the_same_fingerprint(
    hub: Hub, directory: Path, tmp_path: Path
) -> None:
    assert pull(directory, hub.url)[0] == 0
    del hub.files[WEIGHTS]
    assert pull(tmp_path / "other", hub.url)[0] == 0
    first, second = (place / "clip-ViT-B-32" for place in (directory, tmp_path / "other"))
    assert (second / PICKLED).is_file()
    assert models.fingerprint(str(first)) == models.fingerprint(str(second))
    (first / PICKLED).write_bytes(b"not read: the safetensors are")
    assert models.fingerprint(str(first)) == models.fingerprint(str(second))


def test_a_model_that_is_not_on_the_hub(hub: Hub, directory: Path) -> None:
    status, output, problems = pull(directory, hub.url, "owner/no-such-model")
    assert (status, output) == (1, "")
    assert problems.splitlines() == [
        'visrec: the model hub has no public model "owner/no-such-model"',
        "hint: Give its name as on the hub: owner/name.",
    ]
    assert left(directory) == []


def test_without_a_network_it_says_so_in_one_line_and_what_to_do(directory: Path) -> None:
    status, output, problems = pull(directory, "http://127.0.0.1:9")  # nobody listens there
    assert (status, output) == (1, "")
    fact, hint = problems.splitlines()
    assert fact.startswith(
        'visrec: model "sentence-transformers/clip-ViT-B-32" cannot be fetched: '
    )
    assert "refused" in fact
    assert "HTTPS_PROXY" in hint
    assert str(directory / "clip-ViT-B-32") in hint
    assert left(directory) == []


def test_a_directory_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    mask = os.umask(0o022)
    try:
        status = cli.main(["model", "pull", "x", "--directory", str(tmp_path / "file" / "models")])
    finally:
        os.umask(mask)
    problems = capsys.readouterr().err
    assert status == 1
    assert problems.startswith("visrec: ")
    assert "Not a directory" in problems
    assert problems.count("\n") == 1


def test_list_names_each_model_with_its_fingerprint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b-model", "a-model", ".unfinished-x1"):
        tiny.make(tmp_path / name)
    (tmp_path / "c-empty").mkdir()
    (tmp_path / "a-file").touch()
    assert cli.main(["model", "list", "--directory", str(tmp_path)]) == 0
    mark = models.fingerprint(str(tmp_path / "a-model"))
    assert capsys.readouterr().out.splitlines() == [
        f"a-model\t{mark}",
        f"b-model\t{mark}",
        f'c-empty\tdirectory "{tmp_path / "c-empty"}" contains no model weights',
    ]


def test_the_model_directory_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.setenv("VISREC_MODEL_DIRECTORY", str(tmp_path))
    assert cli.main(["model", "list"]) == 0
    assert capsys.readouterr().out.startswith("x\t")


def test_an_error_is_a_line_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: object) -> None:
        raise errors.EncoderUnavailable("the fact", hint="The hint.")

    monkeypatch.setattr(cli, "_list", fail)
    assert cli.main(["model", "list"]) == 1
    assert capsys.readouterr() == ("", "visrec: the fact\nhint: The hint.\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["model"], ["model", "push", "x"], ["model", "pull"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
