"""Ask a loop to stop between two steps: by Ctrl-C, by SIGTERM, or by the end of its terminal."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from diffpo.distributed.process import current_process

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; what schedulers and `kill` send; what a closed terminal sends."""
ECHO = 3.0
"""Seconds within which a second signal under torchrun is of the first Ctrl-C, which torchrun has passed on."""


class Interrupt:
    """A signal handler that notes a request to stop, for a loop to stop between two steps.

    A second Ctrl-C interrupts at once; of the other signals a second one changes nothing. torchrun passes the first
    Ctrl-C on as it is, and the second as SIGTERM.
    """

    requested = False
    """Whether one of the signals has come."""

    def __init__(self) -> None:
        self._pressed: float | None = None  # when Ctrl-C was, by the clock

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        has_torchrun = current_process().world_size > 1
        is_second = number == signal.SIGTERM and has_torchrun and self._pressed is not None
        if number != signal.SIGINT and not is_second:
            return
        now = time.monotonic()
        is_echo = self._pressed is not None and has_torchrun and now - self._pressed < ECHO
        if self._pressed is not None and not is_echo:
            raise KeyboardInterrupt
        if self._pressed is None:
            self._pressed = now


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Handle the signals by an `Interrupt` inside the block. A SIGHUP that is ignored (`nohup`) stays so.

    Signals reach the main thread alone: in another one nothing is handled, and no stop is asked for.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    taken = [number for number in STOPPING if not _is_ignored_hangup(number)]
    before = {number: signal.signal(number, interrupt) for number in taken}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_ignored_hangup(number: signal.Signals) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
