"""The table of a run, in rows for the page and as plain text for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffpo.report.data import Arm, FrontierPoint, arms_of_summary
from diffpo.statistics.frontier import pareto_front
from diffpo.statistics.intervals import Estimate, Interval

ABSENT = "-"
MOST_RULES = 8
HEADER = ("arm", "rule", "accuracy %", "95 % interval", "NFE", "area", "AUP")
DISPLAY = {"base": "Base", "d1": "d1", "diffpo": "DiFFPO", "any-speed": "any-speed", "sampler": "any-speed"}
"""The demo's sampler is fitted to its any-speed policy, which stays as it is: to readers they are one."""


@dataclass(frozen=True)
class Row:
    """The cells of a row under `HEADER`. Area and AUP belong to an arm's frontier and are in its first row."""

    arm: str
    cells: tuple[str, ...]
    is_first: bool
    is_learned: bool


def display(arm: str) -> str:
    """Return the name of an arm as readers see it."""
    return DISPLAY.get(arm, arm)


def percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f}"


def interval_percent(interval: Interval, digits: int = 1) -> str:
    return f"[{percent(interval[0], digits)}, {percent(interval[1], digits)}]"


def table_rows(arms: Sequence[Arm]) -> list[Row]:
    """Return the rows of all arms: for each its learned sampler, at each price, then its rules as evaluated.

    Of more rules than `MOST_RULES` only those that no other of the arm beats are listed.
    """
    rows = []
    for arm in arms:
        points: list[tuple[FrontierPoint | None, str]] = []
        if arm.price_curve:
            bought = {price: arm.price_curve.at(price) for price in arm.price_curve.prices}
            points += [(point, f"learned sampler, price {price:g}") for price, point in bought.items()]
        elif arm.learned:
            points.append((arm.learned.point, "learned sampler"))
        points += [(point, "") for point in listed(arm.points)]
        for i, (point, name) in enumerate(points or [(None, "")]):
            figures = (_plain(arm.area, 3), _plain(arm.aup, 1)) if i == 0 else ("", "")
            if point is None:
                cells = (ABSENT,) * 4
            else:
                cells = (name or point.rule, percent(point.accuracy), interval_percent(point.ci95), f"{point.nfe:.2f}")
            rows.append(Row(arm.name, (display(arm.name), *cells, *figures), i == 0, bool(name)))
    return rows


def listed(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """Return the points that a table shows, in their order."""
    if len(points) <= MOST_RULES:
        return list(points)
    front = pareto_front(*(np.array([getattr(point, name) for point in points]) for name in ("nfe", "accuracy")))
    return [point for i, point in enumerate(points) if i in front]


def summary_table(summary: Mapping[str, Any]) -> str:
    """Return the contents of `summary.json` as a table of plain text; what an arm lacks is a dash."""
    rows = table_rows(arms_of_summary(summary))
    lines = [HEADER, *(row.cells if row.is_first else ("", *row.cells[1:]) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    aligned = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    aligned.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in aligned) + "\n"


def _plain(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return ABSENT
    low, high = estimate.ci95
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
