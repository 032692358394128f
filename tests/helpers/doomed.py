"""`diffpo` in a process of its own, to which a signal comes at a chosen moment.

The processes are forked from one that has imported torch already, which takes longer than all that they do.
"""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from diffpo.cli.main import main
from diffpo.runs import run_dir

Moment = Literal["fsync", "log"]
"""A file of a checkpoint is flushed; a step is logged."""

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["diffpo.cli.main", "diffpo.training.rl", "diffpo.training.sft"])


def run_doomed(
    at: Moment, number: signal.Signals, count: int, arguments: Sequence[str], folder: Path
) -> tuple[int | None, str]:
    """Run the command, which gets the signal at the count-th such moment; return its exit code and its stderr."""
    errors = folder / "stderr"
    process = SERVER.Process(target=_doomed, args=(at, number, count, arguments, errors))
    process.start()
    process.join()
    return process.exitcode, errors.read_text()


def _doomed(at: Moment, number: signal.Signals, count: int, arguments: Sequence[str], errors: Path) -> None:
    with errors.open("w") as file, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(file.fileno(), 2)
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
