"""Downloading from a hub: a small server on loopback speaks its protocol and notes what is asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from m3connect import M3Encoder
from m3connect.encoder.checkpoint import find_folder
from m3connect.errors import CheckpointError
from m3connect.testing_checkpoints import write_checkpoint

COMMIT = "5617a9f61b028005a4858fdac845db406aefb181"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._send(*self._answer())

    def do_GET(self) -> None:
        status, headers, content = self._answer()
        if "ETag" in headers:
            self.server.hub.downloaded.append(self.path.rpartition("/")[2])
        self._send(status, headers, content)

    def _answer(self) -> tuple[int, dict[str, str], bytes]:
        hub: Hub = self.server.hub
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/model/tree/"):
            return 200, {}, json.dumps(hub.tree()).encode()
        if path.startswith("/api/models/org/model"):
            return 200, {}, json.dumps(hub.info()).encode()
        file = hub.folder / path.removeprefix("/org/model/resolve/").partition("/")[2]
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        content = file.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


class Hub:
    """One model at one commit; the revision `main` and the commit's own name lead to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloaded: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def tree(self) -> list[dict[str, object]]:
        return [
            {
                "type": "file",
                "path": str(file.relative_to(self.folder)),
                "size": file.stat().st_size,
                "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
            }
            for file in sorted(self.folder.rglob("*"))
            if file.is_file()
        ]

    def info(self) -> dict[str, object]:
        return {"id": "org/model", "sha": COMMIT, "siblings": [{"rfilename": entry["path"]} for entry in self.tree()]}


@pytest.fixture
def hub(tmp_path: Path, mini_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    folder = write_checkpoint(tmp_path / "origin", tokenizer_folder=mini_folder, layers=1, weights="bin")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx_data").write_bytes(b"2.3 GB in truth")
    (folder / "long.jpg").write_bytes(b"a picture")
    hub = Hub(folder)
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


def test_only_the_needed_files_are_downloaded(hub: Hub) -> None:
    encoder = M3Encoder.from_pretrained("org/model", revision=COMMIT)
    assert encoder.encode(["honey"]).dense.shape == (1, 64)
    assert {"config.json", "tokenizer.json", "pytorch_model.bin", "sparse_linear.pt"} <= set(hub.downloaded)
    assert not {name for name in hub.downloaded if "onnx" in name or name.endswith(".jpg")}


def test_a_downloaded_model_loads_without_the_hub(hub: Hub) -> None:
    first = M3Encoder.from_pretrained("org/model")
    hub.downloaded.clear()
    hub.server.shutdown()
    again = M3Encoder.from_pretrained("org/model", local_files_only=True)
    assert again.fingerprint == first.fingerprint
    assert hub.downloaded == []


def test_a_model_that_is_not_in_the_cache_is_an_error_offline(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="local cache"):
        find_folder("org/model", local_files_only=True)
    assert hub.downloaded == []


def test_a_model_without_weights_is_an_error(hub: Hub) -> None:
    (hub.folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="has neither"):
        find_folder("org/model")
