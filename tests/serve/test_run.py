"""What `diffpo serve` refuses before it serves, and that it ends when it is asked to."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

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


def test_it_warns_where_others_can_reach_it_and_ends_cleanly(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny", "llada")
    command = [sys.executable, "-c", "from diffpo.cli.main import main; main()", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--host", "0.0.0.0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None and process.stderr is not None
    assert "give --length, or each request max_tokens" in process.stdout.readline()
    assert process.stdout.readline() == f"serving {folder}\n"
    address = process.stdout.readline().split("page: ")[1].split()[0].replace("0.0.0.0", "127.0.0.1")
    with urllib.request.urlopen(f"{address}v1/models", timeout=20) as answer:
        assert [model["id"] for model in json.load(answer)["data"]] == [str(folder)]
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0 and stdout == "stopped\n"
    (warning,) = stderr.splitlines()
    assert "0.0.0.0 can be reached from other machines" in warning and "no password" in warning
