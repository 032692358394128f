"""`diffpo push`: what is sent, to a hub on this machine, and what is said where it cannot be."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from diffpo.cli.main import main
from diffpo.models.manifest import CARD
from diffpo.models.model_paths import checkpoints

SENT = {CARD, "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


class Hub:
    """What the hub on this machine knows, and how it answers."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.status = 200
        self.is_private = False


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that takes small files, at the address that the client asks."""
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.endswith("/commit/main"):
                lines = [json.loads(line) for line in body.splitlines()]
                values = [line["value"] for line in lines if line["key"] == "file"]
                found.files |= {value["path"]: base64.b64decode(value["content"]) for value in values}
            content = {} if self.path.endswith("/commit/main") else json.loads(body or b"{}")
            found.requests.append((self.path, self.headers.get("Authorization", ""), content))
            answer: dict[str, Any] = {"url": f"{constants.ENDPOINT}/me/sudoku", "id": "me/sudoku"}
            if "/preupload/" in self.path:
                how = {"uploadMode": "regular", "shouldIgnore": False}
                answer = {"files": [{"path": file["path"]} | how for file in content["files"]]}
            if self.path.endswith("/commit/main"):
                oid = "0" * 40
                answer = {"commitUrl": f"{constants.ENDPOINT}/me/sudoku/commit/{oid}", "commitOid": oid}
            self.answer(answer if found.status == 200 else {"error": "no"})

        def do_GET(self) -> None:
            found.requests.append((self.path, self.headers.get("Authorization", ""), None))
            self.answer({"id": "me/sudoku", "private": found.is_private, "sha": "0" * 40, "siblings": []})

        def answer(self, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(found.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "mine")


def refused(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one sentence with which a command is refused."""
    with pytest.raises(SystemExit) as ended:
        main(["push", *words])
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_the_model_is_sent_and_nothing_of_its_training(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoints(run)[-1]
    (folder / "eval.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        main(["push", str(run), "me/sudoku"])
    assert ended.value.code == 0
    assert hub.files == {name: (folder / name).read_bytes() for name in SENT}
    assert {authorization for _, authorization, _ in hub.requests} == {"Bearer hf_of_the_test"}
    assert hub.requests[0][2]["name"] == "sudoku" and "visibility" not in hub.requests[0][2]
    assert "it is at http://127.0.0.1" in capsys.readouterr().out


def test_private_is_asked_for_and_looked_after(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(str(run), "me/sudoku", "--private", capsys=capsys)
    assert "there already and public" in told and not hub.files
    assert hub.requests[0][2]["visibility"] == "private"
    hub.is_private = True
    with pytest.raises(SystemExit):
        main(["push", str(run), "me/sudoku", "--private"])
    assert set(hub.files) == SENT


def test_a_dry_run_asks_nobody(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["push", str(run), "me/sudoku", "--dry-run"])
    assert ended.value.code == 0 and not hub.requests
    told = capsys.readouterr().out
    assert all(name in told for name in SENT) and "optimizer.pt" not in told


def test_no_token_no_network_no_right(
    hub: Hub, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.status = 403
    assert "does not let this token write to me/sudoku (403)" in refused(str(run), "me/sudoku", capsys=capsys)
    hub.status = 400
    assert "refuses to take me/sudoku" in refused(str(run), "me/sudoku", capsys=capsys)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    told = refused(str(run), "me/sudoku", capsys=capsys)
    assert "127.0.0.1:9 cannot be reached" in told and "hf upload me/sudoku" in told and "optimizer.pt" not in told
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(str(run), "me/sudoku", capsys=capsys)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run / "no-token"))
    assert "no token" in refused(str(run), "me/sudoku", capsys=capsys)


def test_folders_and_names_that_cannot_be_sent(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoints(run)[-1]

    def told(*words: str) -> str:
        return refused(*words, capsys=capsys)

    assert "'me//x' cannot be a repository" in told(str(run), "me//x")
    assert "the model's folder comes first" in told("me/x", str(run))
    assert "is no folder here" in told(str(tmp_path / "gone"), "me/x")
    assert "holds neither a model" in told(str(tmp_path), "me/x")
    plain = shutil.copytree(folder, tmp_path / "plain", ignore=shutil.ignore_patterns("checkpoint_manifest.json"))
    weights = plain / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    assert "model.safetensors cannot be read" in told(str(plain), "me/x")
    weights.unlink()
    assert "it has neither model.safetensors nor" in told(str(plain), "me/x")
    weights.write_bytes(content)
    (plain / "tokenizer.json").unlink()
    assert "no tokenizer.json" in told(str(plain), "me/x")
    shards = plain / "shards"
    shards.mkdir()
    weights.rename(shards / "0.safetensors")
    assert f"diffpo merge {plain}" in told(str(plain), "me/x")
    damaged = folder / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x00")
    assert "not whole" in told(str(run), "me/x")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(plain)}))
    assert "which nobody else has" in told(str(adapter), "me/x")
