"""A limit of time for code that waits or computes for ever."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from diffpo.core.time_limit import OutOfTimeError, time_limit

LONG = 5.0
"""Seconds of what would else be for ever."""


def waits() -> None:
    time.sleep(LONG)


def computes() -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        pass


def catches_what_it_can() -> None:
    for _ in range(2):
        with suppress(Exception):
            time.sleep(LONG)


def waits_for_a_thread() -> None:
    threading.Event().wait(LONG)


@pytest.mark.parametrize("code", [waits, computes, catches_what_it_can, waits_for_a_thread])
def test_code_that_does_not_end_is_interrupted(code: Callable[[], None]) -> None:
    started = time.monotonic()
    with pytest.raises(OutOfTimeError), time_limit(0.05):
        code()
    assert 0.04 < time.monotonic() - started < LONG


def test_code_that_catches_everything_is_interrupted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpo.core.time_limit.AGAIN", 0.05)
    caught = []
    with pytest.raises(OutOfTimeError), time_limit(0.05):
        for last in (False, False, True):
            try:
                time.sleep(LONG)
            except BaseException:
                caught.append(last)
                if last:
                    raise
    assert caught == [False, False, True]


def test_code_that_ends_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: called.append(1))
    try:
        with time_limit(0.05):
            pass
        with pytest.raises(ZeroDivisionError), time_limit(0.05):
            raise ZeroDivisionError
        time.sleep(0.1)
        assert not called and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        signal.raise_signal(signal.SIGALRM)
        assert called, "the handler from before is back"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_another_thread_has_no_limit() -> None:
    ended: list[bool] = []

    def code() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
            ended.append(True)

    thread = threading.Thread(target=code)
    thread.start()
    thread.join()
    assert ended
