"""What `diffpo serve` refuses before it serves, and that it ends when it is asked to."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.families import tiny_folder, tiny_policy

from diffpo.cli import serve_command
from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.serve.run import ServeSettings, allowed_hosts, bound_socket, is_loopback, serve_model


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["serve", *arguments])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    return lines[-1]


def test_without_the_extra_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_command, "find_spec", lambda name: None)
    assert error_of(capsys, "runs/none").endswith(
        "needs fastapi and uvicorn, which are not installed: pip install 'diffpo[serve]'"
    )


def test_a_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(tiny_folder(tmp_path / "tiny", "llada"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = error_of(capsys, folder, "--length", "8", "--port", str(port))
    assert told == (
        f"diffpo: port {port} of 127.0.0.1 is in use; choose another with --port, or --port 0 for a free one"
    )


def test_models_and_hosts_that_cannot_be_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(tiny_folder(tmp_path / "tiny", "llada"))
    assert "is named twice" in error_of(capsys, folder, folder + "/")
    other = f"{tmp_path}/other/../tiny"
    (tmp_path / "other").mkdir()
    assert f"{folder} and {other} are one folder; name each model once" in error_of(capsys, folder, other)
    assert "does not exist" in error_of(capsys, str(tmp_path / "none"))
    assert "no address of this machine" in error_of(capsys, folder, "--length", "8", "--host", "192.0.2.1")
    with pytest.raises(UserError, match="no address of this machine"):
        bound_socket("not a host", 0)
    with pytest.raises(UserError, match="prompt and completion together at most 16"):
        serve_model("tiny", tiny_policy("llada"), 16, ServeSettings(most_tokens=16))


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
)
def test_only_this_machine_is_trusted(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    assert (allowed_hosts(host) == ["*"]) is not expected


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from diffpo.cli.main import main; main()", "serve", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("asked_to_end", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_ends_at_once_and_tells_all_who_wait(tmp_path: Path, asked_to_end: signal.Signals) -> None:
    folder = str(tiny_folder(tmp_path / "tiny", "llada"))
    options = ["--port", "0", "--host", "0.0.0.0", "--device", "cpu"]
    with started(folder, *options) as process, ExitStack() as opened:
        assert process.stdout is not None and process.stderr is not None
        assert "give --length, or each request max_tokens" in process.stdout.readline()
        assert process.stdout.readline() == f"serving {folder}\n"
        port = int(process.stdout.readline().split("page: ")[1].split()[0].rpartition(":")[2].rstrip("/"))
        (model,) = get(port, "/v1/models")["data"]
        assert model["id"] == folder

        whole, stream, half = (
            opened.enter_context(closing(HTTPConnection("127.0.0.1", port, timeout=60))) for _ in range(3)
        )
        asked = {"model": folder, "max_tokens": 1000, "n": 16}
        chat = {"messages": [{"role": "user", "content": "1"}], "stream": True}
        headers = {"Content-Type": "application/json"}
        whole.request("POST", "/v1/completions", json.dumps(asked | {"prompt": "1"}), headers)
        stream.request("POST", "/v1/chat/completions", json.dumps(asked | chat), headers)
        half.request("POST", "/v1/completions", "{", headers | {"Content-Length": "1000"})
        answer = opened.enter_context(stream.getresponse())
        assert b"role" in answer.readline() and answer.readline() == b"\n", "it has begun"
        while get(port, "/health")[folder]["running"] < 32:
            time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(asked_to_end)
        for connection in (whole, half):
            with connection.getresponse() as refused:
                assert refused.status == 503
                error = json.load(refused)["error"]
            assert (error["code"], error["type"]) == ("stopping", "server_error")
        *_, last = answer.read().strip().split(b"\n\n")
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stopping"
        stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - began < 8, "not the minutes that the completions would have taken"
    assert process.returncode == 0 and stdout == "stopped\n"
    (warning,) = stderr.splitlines()
    assert "0.0.0.0 can be reached from other machines" in warning and "no password" in warning


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return json.load(answer)
