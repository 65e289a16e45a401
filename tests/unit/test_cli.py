"""The ``visrec`` command as its user sees it: output, exit status, and what is left on disk."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests import tiny_clip as tiny
from tests.conftest import REPOSITORY
from visrec_db import __version__, cli, errors
from visrec_db.encoders import encoder
from visrec_db.models import models

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = f"{tiny.FOLDER}/model.safetensors"


class Hub(ThreadingHTTPServer):
    """The model hub with one model, as far as `pull` asks for it; it notes each request."""

    daemon_threads = True

    def __init__(self, repository: str, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repository = repository
        self.files = {
            str(file.relative_to(directory)): file.read_bytes()
            for file in sorted(directory.rglob("*"))
            if file.is_file()
        }
        self.files["README.md"] = b"# A model"
        self.files["onnx/model.onnx"] = b"not needed"
        self.requests: list[str] = []
        self.gone: str | None = None
        self.stall_on: str | None = None
        self.stalled = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.requests.append(path)
        api = f"/api/models/{hub.repository}"
        files = f"/{hub.repository}/resolve/{COMMIT}/"
        if path == api:
            siblings = [{"rfilename": name} for name in hub.files]
            self.answer_json({"id": hub.repository, "sha": COMMIT, "siblings": siblings})
        elif path == f"{files}{hub.gone}":
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif path.startswith(files) and path.removeprefix(files) in hub.files:
            self.answer_file(path.removeprefix(files))
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer_file(self, name: str) -> None:
        data = self.server.files[name]
        headers = {"ETag": f'"{digest(data)}"', "X-Repo-Commit": COMMIT}
        if name == self.server.stall_on and self.command == "GET":
            self.answer(200, data, headers, only=len(data) // 2)
            self.server.stalled.set()
            time.sleep(30)
        else:
            self.answer(200, data, headers)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str], only: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:only])
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(tiny_clip: Path) -> Iterator[Hub]:
    server = Hub("sentence-transformers/clip-ViT-B-32", tiny_clip)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.socket.close()  # not server_close: it waits for answers that stall


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "models"


def command(directory: Path, url: str, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own: the hub's library reads its settings once."""
    return subprocess.Popen(
        [sys.executable, "-m", "visrec_db.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY / "python"),
            "HOME": str(directory.parent),
            "HF_ENDPOINT": url,
            "VISREC_MODEL_DIRECTORY": str(directory),
        },
        umask=0o077,
        # Where the tests themselves run in the background, SIGINT is ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def pull(directory: Path, url: str, name: str = "clip-ViT-B-32") -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `visrec model pull`."""
    with command(directory, url, "model", "pull", name) as process:
        output, problems = process.communicate(timeout=60)
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
    assert there == hub.files.keys() - {"onnx/model.onnx"} | compiled
    assert all((target / name).read_bytes() == hub.files[name] for name in there - compiled)
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


def test_a_file_that_cannot_be_fetched_leaves_nothing(hub: Hub, directory: Path) -> None:
    hub.gone = WEIGHTS
    status, _, problems = pull(directory, hub.url)
    assert status == 1
    assert "cannot be fetched: " in problems
    assert "Traceback" not in problems
    assert left(directory) == []


def test_ctrl_c_leaves_nothing(hub: Hub, directory: Path) -> None:
    hub.stall_on = WEIGHTS
    with command(directory, hub.url, "model", "pull", "clip-ViT-B-32") as process:
        assert hub.stalled.wait(20)
        assert len(left(directory)) == 1
        process.send_signal(signal.SIGINT)
        _, problems = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "visrec: interrupted" in problems
    assert "Traceback" not in problems
    assert left(directory) == []


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
