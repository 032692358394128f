"""Real processes for tests, forked from one that has imported torch: importing it takes longer than what they do."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, Literal

from diffpo.cli.main import main
from diffpo.runs import run_dir

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["diffpo.cli.main", "diffpo.training.rl", "diffpo.training.sft", "diffpo.evaluation.run"])


class Forked:
    """A function in a process of its own, which can be handled as a `subprocess.Popen`."""

    def __init__(
        self,
        target: Callable[..., object],
        *arguments: Any,
        stdout: Path,
        stderr: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        settings = (os.getcwd(), stdout, stderr, dict(environment or {}))
        self._process = SERVER.Process(target=_run, args=(settings, target, arguments), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code as far as it is known, as a Popen has it: the number of a signal below zero."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired(str(self._process), timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    settings: tuple[str, Path, Path, dict[str, str]], target: Callable[..., object], arguments: Sequence[Any]
) -> None:
    folder, stdout, stderr, environment = settings
    os.chdir(folder)
    os.environ.update(environment)
    for descriptor, path in ((1, stdout), (2, stderr)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    target(*arguments)


# ------------------------------------------------------------------------------------------------------------ commands

Moment = Literal["fsync", "log"]
"""A file of a checkpoint is flushed; a step is logged."""


def run_doomed(
    at: Moment, number: signal.Signals, count: int, arguments: Sequence[str], folder: Path
) -> tuple[int, str]:
    """Run `diffpo`, which gets the signal at the count-th such moment; return its exit code and its stderr."""
    errors = folder / "stderr"
    errors.unlink(missing_ok=True)
    process = Forked(_doomed, at, number, count, arguments, stdout=Path(os.devnull), stderr=errors)
    return process.wait(), errors.read_text()


def _doomed(at: Moment, number: signal.Signals, count: int, arguments: Sequence[str]) -> None:
    owner: Any = {"fsync": os, "log": run_dir.Run}[at]
    call, left = getattr(owner, at), count

    def call_then_signal(*call_arguments: Any) -> None:
        nonlocal left
        call(*call_arguments)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)

    setattr(owner, at, call_then_signal)
    main(arguments)
