"""The table of a run, in rows for the page and as plain text for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffpo.report.data import Arm, FrontierPoint
from diffpo.statistics.frontier import pareto_front
from diffpo.statistics.intervals import Estimate, Interval

ABSENT = "-"
MOST_RULES = 8
HEADER = ("arm", "rule", "accuracy %", "95 % interval", "NFE", "problems", "area", "AUP")


@dataclass(frozen=True)
class Row:
    """The cells of a row under `HEADER`. Area and AUP belong to an arm's frontier and are in its first row."""

    arm: str
    cells: tuple[str, ...]
    is_first: bool
    is_learned: bool


def counts(arms: Sequence[Arm]) -> str:
    """Return on how many problems, and by how many seeds of training, the figures of arms rest."""
    return sample_text([arm.num_problems for arm in arms], [len(arm.seeds) for arm in arms if arm.is_evaluated])


def sample_text(problems: Sequence[int], seeds: Sequence[int]) -> str:
    """Return numbers of problems and seeds in words: `n = 600 problems, 3 seeds`; one seed goes without saying."""
    told = f"n = {_span(problems)} problems" if any(problems) else ""
    return f"{told}, {_span(seeds)} seeds" if told and max(seeds, default=0) > 1 else told


def _span(values: Sequence[int]) -> str:
    known = sorted({value for value in values if value})
    return f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"


def percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f}"


def interval_percent(interval: Interval, digits: int = 1) -> str:
    return f"[{percent(interval[0], digits)}, {percent(interval[1], digits)}]"


def calls_text(nfe: float, digits: int = 1) -> str:
    """Return mean calls in few digits, and in more where they would look like the one call that no problem goes below.

    A single call is `1`.
    """
    if nfe == 1:
        return "1"
    return f"{nfe:.{digits}f}" if round(nfe, digits) > 1 else f"{nfe:.{digits + 1}f}"


def calls_words(nfe: float) -> str:
    """Return mean calls with their unit."""
    return f"{calls_text(nfe)} {'call' if nfe == 1 else 'calls'}"


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
            figures = (estimate_text(arm.area, 3), estimate_text(arm.aup, 1)) if i == 0 else ("", "")
            if point is None:
                cells: tuple[str, ...] = (ABSENT,) * 5
            else:
                shown = (percent(point.accuracy), interval_percent(point.ci95), f"{point.nfe:.2f}")
                cells = (name or point.rule, *shown, _problems(point, arm))
            rows.append(Row(arm.name, (arm.name, *cells, *figures), i == 0, bool(name)))
    return rows


def _problems(point: FrontierPoint, arm: Arm) -> str:
    seeds = len(arm.seeds)
    return f"{point.n} x {seeds} seeds" if seeds > 1 else str(point.n)


def listed(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """Return the points that a table shows, in their order."""
    if len(points) <= MOST_RULES:
        return list(points)
    front = pareto_front(*(np.array([getattr(point, name) for point in points]) for name in ("nfe", "accuracy")))
    return [point for i, point in enumerate(points) if i in front]


def table_text(arms: Sequence[Arm]) -> str:
    """Return the table of arms as plain text for a terminal; what an arm lacks is a dash."""
    rows = table_rows(arms)
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


def estimate_text(estimate: Estimate | None, digits: int) -> str:
    """Return an estimate with its interval; a dash where there is none."""
    if estimate is None:
        return ABSENT
    low, high = estimate.ci95
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
