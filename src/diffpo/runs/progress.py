"""Report how far a loop is: a live bar on a terminal, plain lines elsewhere, never silence."""

import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, runtime_checkable

from diffpo.core.output import say, survive_closed
from diffpo.core.printable import printable
from diffpo.distributed.process import current_process

Metric = int | float | str


@runtime_checkable
class _Display(Protocol):
    def show(self, step: int, metrics: Mapping[str, Metric]) -> None: ...

    def warn(self, line: str) -> None: ...

    def close(self) -> None: ...


class ProgressBar:
    """Show how far a loop of `total` steps is.

        with ProgressBar("rl", num_steps) as bar:
            for step in range(num_steps):
                ...
                bar.update(step + 1, reward=reward, nfe=nfe)

    On a terminal it is one live bar. Elsewhere it prints lines at least `min_gap` and at most `max_gap` seconds apart:
    when no update comes, a thread prints which step is still being worked on. Of several processes only the first
    prints. `unit` is what is counted, and `done` how many were done before. Where nobody reads the output any more, the
    loop goes on without it.
    """

    def __init__(
        self, label: str, total: int, *, unit: str = "step", done: int = 0, min_gap: float = 2.0, max_gap: float = 8.0
    ) -> None:
        self._label, self._total, self._unit, self._min_gap, self._max_gap = label, total, unit, min_gap, max_gap
        self._done = done
        self._warned: set[str] = set()

    def __enter__(self) -> "ProgressBar":
        self._display: _Display
        if not current_process().is_main:
            self._display = _Silence()
        elif sys.stdout is not None and sys.stdout.isatty():
            self._display = _LiveBar(self._label, self._total, self._unit, self._done)
        else:
            self._display = _Lines(self._label, self._total, self._unit, self._done, self._min_gap, self._max_gap)
        return self

    def update(self, step: int, **metrics: Metric) -> None:
        """Show that `step` steps are done, and the latest numbers."""
        self._display.show(step, metrics)

    def warn(self, message: str, **values: Metric) -> None:
        """Print a warning that stays, `message` formatted with `values`.

        A message is printed once, whatever its values: what is wrong with one step is wrong with the next, too.
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


class _LiveBar:
    def __init__(self, label: str, total: int, unit: str, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", markup=False),
        )
        with survive_closed("stdout"):
            self._task = self._bar.add_task(printable(label), total=total, completed=done, metrics="")
            self._bar.start()

    def show(self, step: int, metrics: Mapping[str, Metric]) -> None:
        with survive_closed("stdout"):
            self._bar.update(self._task, completed=step, metrics=printable(_format(metrics)))

    def warn(self, line: str) -> None:
        with survive_closed("stdout"):
            self._bar.console.print(printable(line), markup=False, highlight=False)

    def close(self) -> None:
        with survive_closed("stdout"):
            self._bar.stop()


class _Lines:
    def __init__(self, label: str, total: int, unit: str, done: int, min_gap: float, max_gap: float) -> None:
        self._label, self._total, self._unit, self._min_gap, self._max_gap = label, total, unit, min_gap, max_gap
        self._start = self._updated = time.monotonic()
        self._printed = float("-inf")
        self._step, self._pending = done, ""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._print_when_quiet, name=f"progress of {label}", daemon=True)
        self._print(f"{label}: {f'goes on at {unit}' if done else unit} {done}/{total}")
        self._thread.start()

    def show(self, step: int, metrics: Mapping[str, Metric]) -> None:
        with self._lock:
            now = time.monotonic()
            self._step, self._updated = step, now
            parts = (
                f"{self._label}: {self._unit} {step}/{self._total}",
                _format(metrics),
                f"({now - self._start:.0f} s)",
            )
            self._pending = "  ".join(filter(None, parts))
            if now - self._printed >= self._min_gap:
                self._print(self._pending)
                self._pending = ""

    def warn(self, line: str) -> None:
        with self._lock:
            say(line)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        if self._pending:
            self._print(self._pending)

    def _print_when_quiet(self) -> None:
        while not self._closed.wait(max(0.0, self._printed + self._max_gap - time.monotonic())):
            with self._lock:
                now = time.monotonic()
                if now - self._printed >= self._max_gap:
                    self._print(f"{self._label}: still at {self._unit} {self._step} ({now - self._updated:.0f} s)")

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        say(line)


def _format(metrics: Mapping[str, Metric]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in metrics.items()
    )
