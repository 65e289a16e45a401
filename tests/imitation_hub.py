"""An imitation of the model hub on loopback: what `visrec model pull` asks for, and its faults.

Large files are answered as the hub does: a redirect to another place, their SHA-256 in the list.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".onnx")


class Hub(ThreadingHTTPServer):
    """The hub with one model; it notes each request.

    ``faults``: of a file's name, what happens when it is fetched: "gone", "cut" (the connection
    ends in its middle, each time), "damaged" (other bytes, as many), "stall".
    """

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
        self.faults: dict[str, str] = {}
        self.checksums = True
        self.stalled = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def siblings(self) -> list[dict[str, object]]:
        return [self._sibling(name, data) for name, data in self.files.items()]

    def _sibling(self, name: str, data: bytes) -> dict[str, object]:
        found: dict[str, object] = {"rfilename": name, "size": len(data)}
        if self.checksums:
            found["blobId"] = blob(data)
            if name.endswith(LARGE):
                sha256 = hashlib.sha256(data).hexdigest()
                found["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
        return found


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.requests.append(path)
        files = f"/{hub.repository}/resolve/{COMMIT}/"
        if path == f"/api/models/{hub.repository}":
            found = {"id": hub.repository, "sha": COMMIT, "siblings": hub.siblings()}
            kind = {"Content-Type": "application/json"}
            self.answer(200, json.dumps(found).encode(), kind)
        elif path.startswith(files) and path.removeprefix(files) in hub.files:
            self.answer_file(path.removeprefix(files), elsewhere=False)
        elif path.startswith("/cdn/"):
            self.answer_file(path.removeprefix("/cdn/"), elsewhere=True)
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def answer_file(self, name: str, *, elsewhere: bool) -> None:
        data, fault = self.server.files[name], self.server.faults.get(name)
        large = name.endswith(LARGE)
        etag = hashlib.sha256(data).hexdigest() if large else blob(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if fault == "gone":
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif large and not elsewhere:
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            self.answer(
                302, b"", {**headers, **linked, "Location": f"{self.server.url}/cdn/{name}"}
            )
        elif self.command == "HEAD" or fault is None:
            self.answer(200, data, headers)
        elif fault == "damaged":
            self.answer(200, data[:-1000] + bytes(1000), headers)
        else:
            self.answer(200, data, headers, only=len(data) // 2)
            if fault == "stall":
                self.server.stalled.set()
                time.sleep(30)
            self.close_connection = True

    def answer(
        self, status: int, body: bytes, headers: dict[str, str], only: int | None = None
    ) -> None:
        begun = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begun and status == 200 and self.command == "GET":
            first = int(begun[1])
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[first:]
            only = None if only is None else 0
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:only])
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def blob(data: bytes) -> str:
    """Git's name of a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def as_on_the_hub(directory: Path) -> None:
    """Gives a model of ``tiny_clip`` the files that sentence-transformers' own CLIP has there.

    The weights twice, as safetensors and pickled; vocabulary and merges, and no tokenizer.json.
    """
    import torch  # noqa: PLC0415 - seconds
    from safetensors.torch import load_file  # noqa: PLC0415

    from tests import tiny_clip  # noqa: PLC0415

    folder = directory / tiny_clip.FOLDER
    tiny_clip.without_tokenizer_json(directory)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")


if __name__ == "__main__":  # to try by hand: python -m tests.imitation_hub OWNER/NAME DIRECTORY
    import sys

    with Hub(sys.argv[1], Path(sys.argv[2])) as server:
        print(f"HF_ENDPOINT={server.url}", flush=True)
        server.serve_forever()
