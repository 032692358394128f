"""A limit of time for code of the user's own, which may wait for ever or never come to an end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 1.0
"""Seconds after which code that has caught the interruption is interrupted anew."""


class OutOfTimeError(BaseException):
    """Code has run longer than it may. No Exception, so that an `except Exception` in it does not keep it going."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the block once it has run that long, whether it computes or waits.

    It does so by SIGALRM, between two instructions of Python: a call into C that neither ends nor looks for signals is
    not interrupted. Signals reach the main thread alone, so a block in another thread has no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    is_over = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if not is_over:
            raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        try:
            yield
        finally:
            is_over = True
    finally:  # of its own, since the signal may come in the one above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
