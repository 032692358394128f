"""What a loop says while it runs: a live bar on a terminal, otherwise plain lines, never silence."""

import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, runtime_checkable

from diffpo.distributed.process import current_process

Metric = int | float | str


@runtime_checkable
class _Display(Protocol):
    def show(self, step: int, metrics: Mapping[str, Metric]) -> None: ...

    def warn(self, line: str) -> None: ...

    def close(self) -> None: ...


class Progress:
    """Shows how far a loop of `total` steps is.

        with Progress("rl", recipe.num_steps) as progress:
            for step in range(recipe.num_steps):
                ...
                progress.update(step + 1, reward=reward, nfe=nfe)

    On a terminal, one live bar. Elsewhere, lines at least `min_gap` and at most `max_gap` seconds apart: when no update
    comes, a thread says which step is still being worked on. Of several processes the first one speaks.
    """

    def __init__(self, label: str, total: int, *, min_gap: float = 2.0, max_gap: float = 8.0) -> None:
        self._label, self._total, self._min_gap, self._max_gap = label, total, min_gap, max_gap
        self._warned: set[str] = set()

    def __enter__(self) -> "Progress":
        self._display: _Display
        if not current_process().is_main:
            self._display = _Silence()
        elif sys.stdout.isatty():
            self._display = _Bar(self._label, self._total)
        else:
            self._display = _Lines(self._label, self._total, self._min_gap, self._max_gap)
        return self

    def update(self, step: int, **metrics: Metric) -> None:
        """`step` steps are done; `metrics` are the latest numbers."""
        self._display.show(step, metrics)

    def warn(self, message: str, **values: Metric) -> None:
        """Say a line that stays, with `values` in its place-holders.

        The first time only, whatever they are: what is wrong with one step is wrong with the next, too.
        """
        if message not in self._warned:
            self._display.warn(f"{self._label}: warning: {message.format(**values)}")
        self._warned.add(message)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._display.close()


class _Silence:
    def show(self, step: int, metrics: Mapping[str, Metric]) -> None: ...

    def warn(self, line: str) -> None: ...

    def close(self) -> None: ...


class _Bar:
    def __init__(self, label: str, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", markup=False),
        )
        self._task = self._bar.add_task(label, total=total, metrics="")
        self._bar.start()

    def show(self, step: int, metrics: Mapping[str, Metric]) -> None:
        self._bar.update(self._task, completed=step, metrics=_format(metrics))

    def warn(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()


class _Lines:
    def __init__(self, label: str, total: int, min_gap: float, max_gap: float) -> None:
        self._label, self._total, self._min_gap, self._max_gap = label, total, min_gap, max_gap
        self._start = self._reached = time.monotonic()
        self._printed = float("-inf")
        self._step, self._unsaid = 0, ""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"progress of {label}", daemon=True)
        self._say(f"{label}: step 0/{total}")
        self._heart.start()

    def show(self, step: int, metrics: Mapping[str, Metric]) -> None:
        with self._lock:
            now = time.monotonic()
            self._step, self._reached = step, now
            parts = (f"{self._label}: step {step}/{self._total}", _format(metrics), f"({now - self._start:.0f} s)")
            self._unsaid = "  ".join(filter(None, parts))
            if now - self._printed >= self._min_gap:
                self._say(self._unsaid)
                self._unsaid = ""

    def warn(self, line: str) -> None:
        with self._lock:
            print(line, flush=True)

    def close(self) -> None:
        self._closed.set()
        self._heart.join()
        if self._unsaid:
            self._say(self._unsaid)

    def _beat(self) -> None:
        while not self._closed.wait(max(0.0, self._printed + self._max_gap - time.monotonic())):
            with self._lock:
                now = time.monotonic()
                if now - self._printed >= self._max_gap:
                    try:
                        self._say(f"{self._label}: still at step {self._step} ({now - self._reached:.0f} s)")
                    except OSError:  # the reader is gone; the loop itself will notice
                        return

    def _say(self, line: str) -> None:
        self._printed = time.monotonic()
        print(line, flush=True)


def _format(metrics: Mapping[str, Metric]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in metrics.items()
    )
