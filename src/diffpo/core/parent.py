"""Processes that a command starts end with it, however it ends."""

import os
import signal
import threading
import time

from diffpo.core.errors import UserError

PARENT = "DIFFPO_PARENT"
"""In the environment of such a process: the id of the one that started it."""
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""In the environment of processes that torchrun starts."""
CHECK_EVERY = 0.5
"""Seconds between two looks at whether that one is still there."""


def child_environment() -> dict[str, str]:
    """Return the environment for a process that `end_with_parent` shall end with this one."""
    return os.environ | {PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Send this process SIGTERM once the process that started it is gone, if that asked for it, or is torchrun.

    A training loop then leaves a checkpoint; without torchrun nobody would end it, nor start it again where it is.
    Processes started from here inherit nothing of it. Raises UserError where the environment names no process.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None and TORCHRUN in os.environ:
        parent = str(os.getppid())
    if parent is not None and not (parent.isascii() and parent.isdigit() and len(parent) < 20):
        raise UserError(f"the environment has {PARENT}={parent!r:.60}, which is no process; unset it")
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), name="watch of the parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
