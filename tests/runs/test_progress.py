"""What a loop shows: neither a flood nor silence."""

import io
import threading
import time
from contextlib import redirect_stdout

import pytest

from diffpo.runs.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_thinned_and_the_last_state_is_always_said() -> None:
    with redirect_stdout(io.StringIO()) as stdout, ProgressBar("sft", 100, min_gap=60.0) as progress:
        for step in range(1, 101):
            progress.update(step, loss=1 / step, nfe=3)
    first, last = stdout.getvalue().splitlines()
    assert first == "sft: step 0/100"
    assert last == "sft: step 100/100  loss 0.01  nfe 3  (0 s)"


def test_every_update_is_said_when_they_are_slow() -> None:
    with redirect_stdout(io.StringIO()) as stdout, ProgressBar("rl", 2, min_gap=0.0) as progress:
        progress.update(1, note="warm")
        progress.update(2)
    assert stdout.getvalue().splitlines() == [
        "rl: step 0/2",
        "rl: step 1/2  note warm  (0 s)",
        "rl: step 2/2  (0 s)",
    ]


def test_silence_is_broken_while_a_step_takes_long() -> None:
    with redirect_stdout(io.StringIO()) as stdout, ProgressBar("rl", 9, min_gap=0.0, max_gap=0.05) as progress:
        progress.update(1)
        time.sleep(0.3)
    lines = stdout.getvalue().splitlines()
    assert lines[-1] == "rl: still at step 1 (0 s)"
    assert 2 <= lines.count(lines[-1]) <= 6


def test_what_is_counted_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("eval", 300, unit="completion") as bar:
        bar.update(300)
    assert capsys.readouterr().out.splitlines() == ["eval: completion 0/300", "eval: completion 300/300  (0 s)"]


@pytest.mark.parametrize("stdout", [io.StringIO(), Terminal()])
def test_an_error_passes_through_and_no_thread_is_left(stdout: io.StringIO) -> None:
    with redirect_stdout(stdout), pytest.raises(ZeroDivisionError), ProgressBar("rl", 3) as progress:
        progress.update(1, loss=float("nan"))
        raise ZeroDivisionError
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("progress")]
    assert "nan" in stdout.getvalue()


def test_a_reader_that_went_away_does_not_crash_the_thread() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            if "still" in text:
                raise BrokenPipeError
            return super().write(text)

    with redirect_stdout(Closed()), ProgressBar("rl", 1, max_gap=0.02):
        time.sleep(0.1)


def test_a_terminal_gets_a_bar_with_the_metrics() -> None:
    with redirect_stdout(Terminal()) as stdout, ProgressBar("rl", 4) as progress:
        progress.update(3, reward=0.25)
    assert "3/4" in stdout.getvalue()
    assert "reward 0.25" in stdout.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_warning_is_said_once(kind: type[io.StringIO]) -> None:
    with redirect_stdout(kind()) as stdout, ProgressBar("rl", 4) as progress:
        for step in range(4):
            progress.update(step)
            progress.warn("look [here]")
    assert stdout.getvalue().count("rl: warning: look [here]") == 1
