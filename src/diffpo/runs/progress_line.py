"""One line of progress, fitted into a width: numbers are shortened, then the last figures left out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Metric = int | float | str
MOST_FIGURES = 4
EXACT_BELOW = 10_000
"""From here on counts have three digits: 45.2k."""
SIZES = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


@dataclass(frozen=True)
class Count:
    """How much of a loop is done."""

    unit: str
    """What is counted: `step`."""
    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.unit} {short_count(self.done)}/{short_count(self.total)}"


def short_count(number: int) -> str:
    """Return a count as it is, or from EXACT_BELOW on with three digits: 45.2k, 1.25M."""
    if number < EXACT_BELOW:
        return str(number)
    size, letter = next((size, letter) for size, letter in SIZES if number >= size)
    return f"{round(number / size, 3 - len(str(number // size))):g}{letter}"


def short_time(seconds: float) -> str:
    """Return a duration in its two largest units: 40s, 12m, 1h05m, 2d03h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}m"
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02d}h"


def seconds_left(count: Count, done_before: int, elapsed: float) -> float | None:
    """Return how long the rest takes at the pace since `done_before`; None where nothing tells."""
    if count.done <= done_before or elapsed <= 0:
        return None
    return max(0.0, elapsed / (count.done - done_before) * (count.total - count.done))


def fitted(start: Iterable[str], figures: Mapping[str, Metric], width: int) -> str:
    """Return `start` and the first four figures in one line of at most `width` characters.

    Where they have no room, they get two digits in place of three, then one space between them in place of two, then
    the last ones are left out. `start` is never cut.
    """
    parts, chosen = list(start), list(figures.items())[:MOST_FIGURES]
    for number in range(len(chosen), -1, -1):
        for digits, gap in ((3, "  "), (2, "  "), (2, " ")):
            line = gap.join([*parts, *(f"{name} {_short(value, digits)}" for name, value in chosen[:number])])
            if len(line) <= width:
                return line
    return " ".join(parts)


def _short(value: Metric, digits: int) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 10**digits <= abs(value) < 10**6 else f"{value:.{digits}g}"
