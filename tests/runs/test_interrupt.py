"""Requests to stop: which signals ask, which interrupt at once, and which stay as they were."""

import signal

import pytest

from diffpo.runs import interrupt as interrupt_module
from diffpo.runs.interrupt import STOPPING, interruptible


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruptible() as interrupt:
        asked = [interrupt.requested]
        signal.raise_signal(number)
        asked.append(interrupt.requested)
    assert asked == [False, True]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_a_system_sends_twice_interrupts_nothing(first: signal.Signals) -> None:
    with interruptible() as interrupt:
        signal.raise_signal(first)
        is_interrupted = False
        try:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
                signal.raise_signal(number)
        except KeyboardInterrupt:  # bare, it would end all tests
            is_interrupted = True
        assert interrupt.requested and not is_interrupted


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_under_torchrun_ctrl_c_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the terminal and from torchrun; a later one is the user's."""
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with interruptible() as interrupt:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        monkeypatch.setattr(interrupt_module, "ECHO", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_torchrun_passes_a_second_ctrl_c_on_as_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with interruptible() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested, "by a scheduler, which may ask twice"
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # of the same Ctrl-C
        monkeypatch.setattr(interrupt_module, "ECHO", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
