"""The tutorial does what it says: in small, and, when slow, as readers do it, from a wheel in an empty environment."""

import os
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffpo.cli.main import main
from tests.helpers.documents import ROOT, blocks_of, commands_of, file_of
from tests.helpers.tiny_runs import lines_of

PAGE = ROOT / "docs" / "tutorial.md"
QUICK: Mapping[str, list[str]] = {
    "sft": ["steps=2", "batch=4", "model.d_model=24", "model.mlp_hidden_size=32"],
    "rl": ["budget={steps=2}", "rollout.prompts_per_step=3", "rollout.group_size=4"],
    "eval": ["count=4", "bounds=[1.0]"],
}
ELSEWHERE = {"serve"}
"""Has tests of its own: it does not end by itself."""
LIMIT = 300.0
"""Seconds from the first command to the last, on two cores, with the installation."""


def test_the_tutorial_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verbs = []
    for block in blocks_of(PAGE):
        if name := file_of(block):
            Path(name).write_text(block.code)
        elif block.language == "sh":
            for program, *words in commands_of(block.code):
                if program == "python":
                    subprocess.run([sys.executable, *words], check=True)
                elif program == "diffpo" and words[0] not in ELSEWHERE:
                    verbs.append(words[0])
                    with pytest.raises(SystemExit) as caught:
                        main([*words, *QUICK.get(words[0], [])])
                    assert not caught.value.code
    assert verbs == ["check", "sft", "eval", "rl", "eval", "report", "sample"]
    assert {"rewards/in_order/mean", "accuracy"} <= lines_of(tmp_path / "runs" / "diffpo")[-1].keys()
    report = Path("report.html").read_text()
    assert all(name in report for name in ("base", "diffpo", "entropy bound"))


@dataclass(frozen=True)
class Reader:
    """An environment into which nothing but the wheel was installed, and the seconds that this took."""

    variables: Mapping[str, str]
    seconds: float

    def run(self, words: list[str], here: Path) -> None:
        done = subprocess.run(words, cwd=here, env=self.variables, text=True, capture_output=True)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        print(f"$ {' '.join(words)}\n{done.stdout}")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("reader")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(pip, check=True)
    (wheel,) = folder.glob("*.whl")
    start = time.monotonic()
    venv.create(folder / "environment", with_pip=True)
    bin_folder = folder / "environment" / "bin"
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    variables |= {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    install = [str(bin_folder / "pip"), "install", "--quiet", *(f"{wheel}[{extra}]" for extra in extras_of(PAGE))]
    subprocess.run(install, check=True, env=variables)
    return Reader(variables, time.monotonic() - start)


def extras_of(page: Path) -> list[str]:
    """Return the extras that the page's `pip install 'diffpo[...]'` names."""
    shell = [block for block in blocks_of(page) if block.language == "sh"]
    installs = [words[-1] for block in shell for words in commands_of(block.code) if words[0] == "pip"]
    return [word.removeprefix("diffpo[").removesuffix("]") for word in installs]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_from_a_wheel_in_an_empty_environment(reader: Reader, tmp_path: Path) -> None:
    start = time.monotonic()
    with _ended_afterwards() as background:
        for block in blocks_of(PAGE):
            if name := file_of(block):
                (tmp_path / name).write_text(block.code)
                continue
            for words in commands_of(block.code) if block.language == "sh" else []:
                if words[:2] == ["diffpo", "serve"]:
                    background.append(subprocess.Popen(words, cwd=tmp_path, env=reader.variables))
                    _wait_for_port(int(words[words.index("--port") + 1]))
                elif words[0] != "pip":
                    reader.run(words, tmp_path)
    seconds = time.monotonic() - start
    print(f"installation {reader.seconds:.0f} s, tutorial {seconds:.0f} s")
    assert reader.seconds + seconds < LIMIT


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_from_a_wheel_and_what_the_readme_does_with_it(reader: Reader, tmp_path: Path) -> None:
    reader.run(["diffpo", "demo", "--seed", "0"], tmp_path)
    for block in blocks_of(ROOT / "README.md"):
        if block.language == "python":
            reader.run(["python", "-c", block.code], tmp_path)
        elif "runs/demo" in block.code:
            for words in commands_of(block.code):
                if words[0] == "diffpo":
                    reader.run(words, tmp_path)


@contextmanager
def _ended_afterwards() -> Iterator[list["subprocess.Popen[bytes]"]]:
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)


def _wait_for_port(port: int, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port}")
