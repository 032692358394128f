"""What a loop shows: neither a flood nor silence."""

import io
import re
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
    assert last == "sft: step 100/100  (0s)  loss 0.01  nfe 3"


def test_every_update_is_said_when_they_are_slow() -> None:
    with redirect_stdout(io.StringIO()) as stdout, ProgressBar("rl", 2, min_gap=0.0) as progress:
        progress.update(1, note="warm")
        progress.update(2)
    assert [line for line in stdout.getvalue().splitlines() if "still" not in line] == [
        "rl: step 0/2",
        "rl: step 1/2  0s left  note warm",
        "rl: step 2/2  (0s)",
    ]


def test_silence_is_broken_while_a_step_takes_long() -> None:
    with redirect_stdout(io.StringIO()) as stdout, ProgressBar("rl", 9, min_gap=0.1) as progress:
        progress.update(1, loss=1.0)
        time.sleep(0.45)
    first, told, *others = stdout.getvalue().splitlines()
    # The newest figures are said once, and then that nothing new has come; never sooner than the gap.
    assert (first, told) == ("rl: step 0/9", "rl: step 1/9  0s left  loss 1")
    assert others and set(others) == {"rl: still at step 1 (0s)"} and len(others) <= 3


def test_a_run_that_goes_on_says_so_and_counts_its_own_pace() -> None:
    with redirect_stdout(io.StringIO()) as stdout, ProgressBar("rl", 9, done=6, min_gap=60.0) as progress:
        progress.update(7)
    assert stdout.getvalue().splitlines()[0] == "rl: goes on at step 6/9"


def test_what_is_counted_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("eval", 300, unit="completion") as bar:
        bar.update(300)
    assert capsys.readouterr().out.splitlines() == ["eval: completion 0/300", "eval: completion 300/300  (0s)"]


FIGURES = {"accuracy": 0.5, "nfe": 8.25, "reward": 0.25, "kl": 0.125}


@pytest.mark.parametrize("columns", [80, 40, 20])
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_nothing_is_wider_than_the_terminal(
    kind: type[io.StringIO], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with redirect_stdout(kind()) as stdout, ProgressBar("rl", 90_000, unit="denoiser call", min_gap=0.0) as progress:
        progress.update(45_000, **FIGURES)
    plain = re.sub("\x1b\\[[0-9?;]*[A-Za-z]", "", stdout.getvalue()).replace("\r", "\n")
    lines = [line for line in plain.splitlines() if "still" not in line]
    # What is done is never cut from a plain line, however narrow; a bar on a terminal may not wrap.
    uncut = 0 if kind is Terminal else len("rl: denoiser call 45k/90k 0s left")
    assert max(map(len, lines)) <= max(columns, uncut)
    if columns == 80:
        assert "denoiser call 45k/90k" in plain
        assert re.search("accuracy 0.5 +nfe 8.2[25]* +reward 0.25 +kl 0.1[235]+", plain)
    if kind is Terminal and columns == 80:
        assert "━━━─" in plain


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with redirect_stdout(Terminal()) as stdout, ProgressBar("rl", 2, min_gap=60.0) as progress:
        progress.update(2, loss=0.5)
    assert stdout.getvalue() == "rl: step 0/2\nrl: step 2/2  (0s)  loss 0.5\n"


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

    with redirect_stdout(Closed()), ProgressBar("rl", 1, min_gap=0.02):
        time.sleep(0.1)


def test_a_terminal_gets_a_bar_with_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
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
