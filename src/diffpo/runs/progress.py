"""Report how far a loop is: a live bar on a terminal, plain lines elsewhere, never silence."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from diffpo.core.output import say, survive_closed
from diffpo.core.printable import printable
from diffpo.distributed.process import current_process
from diffpo.runs.progress_line import Count, Metric, fitted, seconds_left, short_time

if TYPE_CHECKING:
    from rich.text import Text

NARROWEST_BAR, WIDEST_BAR = 8, 30


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

    On a terminal that can move its cursor it is a live bar with a line of figures below. Elsewhere it prints plain
    lines, at least `min_gap` seconds apart: the newest figures or, when no update comes, which step is still being
    worked on. Both fit into the terminal's width, or 80 columns; of the metrics the first four are shown. Of several
    processes only the first prints. `unit` is what is counted, and `done` how many were done before. Where nobody reads
    the output any more, the loop goes on without it.
    """

    def __init__(self, label: str, total: int, *, unit: str = "step", done: int = 0, min_gap: float = 15.0) -> None:
        self._label, self._total, self._unit, self._done, self._min_gap = label, total, unit, done, min_gap
        self._warned: set[str] = set()

    def __enter__(self) -> "ProgressBar":
        self._display: _Display
        if not current_process().is_main:
            self._display = _Silence()
        elif is_live_terminal():
            self._display = _LiveBar(self._label, self._total, self._unit, self._done)
        else:
            self._display = _Lines(self._label, self._total, self._unit, self._done, self._min_gap)
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
        from rich.console import Console
        from rich.live import Live

        self._label, self._count, self._before = printable(label), Count(unit, done, total), done
        self._figures: Mapping[str, Metric] = {}
        self._start = time.monotonic()
        self._console = Console(file=sys.stdout)
        self._live = Live(console=self._console, get_renderable=self._lines, refresh_per_second=4)
        with survive_closed("stdout"):
            self._live.start()

    def show(self, step: int, metrics: Mapping[str, Metric]) -> None:
        self._count = Count(self._count.unit, step, self._count.total)
        self._figures = {name: printable(value) if isinstance(value, str) else value for name, value in metrics.items()}
        with survive_closed("stdout"):
            self._live.refresh()

    def warn(self, line: str) -> None:
        with survive_closed("stdout"):
            self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        with survive_closed("stdout"):
            self._live.stop()

    def _lines(self) -> "Text":
        from rich.text import Text

        width, elapsed = self._console.width - 1, time.monotonic() - self._start
        left = seconds_left(self._count, self._before, elapsed)
        pace = f"{short_time(elapsed)}" if not left else f"{short_time(left)} left"
        told = f"{self._count}  {pace}"
        room = width - len(self._label) - len(told) - 2
        length = min(WIDEST_BAR, room - 2) if room - 2 >= NARROWEST_BAR else 0
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(self._label)
        if length:
            filled = min(length, length * self._count.done // max(1, self._count.total))
            full, empty = ("━", "─") if "utf" in self._console.encoding.lower() else ("#", "-")
            text.append("  ").append(full * filled, style="cyan").append(empty * (length - filled), style="dim")
        text.append(f"  {told}")
        if figures := fitted((), self._figures, width - 2):
            text.append(f"\n  {figures}")
        return text


class _Lines:
    def __init__(self, label: str, total: int, unit: str, done: int, min_gap: float) -> None:
        self._label, self._count, self._before, self._min_gap = label, Count(unit, done, total), done, min_gap
        self._start = self._updated = time.monotonic()
        self._printed = float("-inf")
        self._pending: Mapping[str, Metric] | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._print_when_due, name=f"progress of {label}", daemon=True)
        self._print(f"{label}: {'goes on at ' if done else ''}{self._count}")
        self._thread.start()

    def show(self, step: int, metrics: Mapping[str, Metric]) -> None:
        with self._lock:
            self._count = Count(self._count.unit, step, self._count.total)
            self._updated, self._pending = time.monotonic(), dict(metrics)
            if self._updated - self._printed >= self._min_gap:
                self._print_pending()

    def warn(self, line: str) -> None:
        with self._lock:
            say(line)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        if self._pending is not None:
            self._print_pending()

    def _print_when_due(self) -> None:
        while not self._closed.wait(max(0.0, self._printed + self._min_gap - time.monotonic())):
            with self._lock:
                now = time.monotonic()
                if now - self._printed < self._min_gap:
                    continue
                if self._pending is not None:
                    self._print_pending()
                else:
                    still = f"{self._count.unit} {self._count.done}"
                    self._print(f"{self._label}: still at {still} ({short_time(now - self._updated)})")

    def _print_pending(self) -> None:
        elapsed = self._updated - self._start
        left = seconds_left(self._count, self._before, elapsed)
        pace = f"({short_time(elapsed)})" if not left else f"{short_time(left)} left"
        self._print(fitted((f"{self._label}: {self._count}", pace), self._pending or {}, terminal_width()))
        self._pending = None

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        say(line)


def is_live_terminal() -> bool:
    """Return whether stdout is a terminal that can move its cursor."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def terminal_width() -> int:
    """Return the columns of a line: COLUMNS, the terminal's, or 80."""
    return shutil.get_terminal_size().columns
