"""Real processes for tests, forked from one that has imported torch: importing it takes longer than what they do."""

import atexit
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Literal

from diffpo.cli.main import main
from diffpo.runs import run_dir

PRELOADED = "diffpo.training.rl, diffpo.training.sft, diffpo.evaluation.run"
SERVE = f"import sys, {PRELOADED}; from {__name__} import serve; serve(int(sys.argv[1]))"


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
        self.returncode: int | None = None
        """The exit code as far as it is known; below zero the number of a signal."""
        settings = (os.getcwd(), stdout, stderr, dict(environment or {}))
        self._server = server()
        self._server.send(pickle.dumps((settings, target, arguments)))
        self.pid: int = self._server.recv()

    def poll(self) -> int | None:
        if self.returncode is None:
            self._server.send(self.pid)
            self.returncode = self._server.recv()
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise TimeoutError(f"process {self.pid} has not ended in {timeout} s")
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def server() -> Connection:
    """Start the process that others are forked from, and return the way to it.

    It is not one of `multiprocessing`, which has but one for everyone who asks, and none for daemons.
    """
    ours, theirs = Pipe()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", SERVE, str(theirs.fileno())]
    process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


def serve(descriptor: int) -> None:
    """Fork a process for each task that comes, and tell its id; for each id tell the exit code, if there is one."""
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = Connection(descriptor)
    while True:
        try:
            request = requests.recv()
        except EOFError:
            return
        if isinstance(request, int):
            pid, status = os.waitpid(request, os.WNOHANG)
            requests.send(os.waitstatus_to_exitcode(status) if pid else None)
        elif pid := os.fork():
            requests.send(pid)
        else:
            requests.close()
            signal.signal(signal.SIGINT, interrupted)
            return _run(*pickle.loads(request))


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
