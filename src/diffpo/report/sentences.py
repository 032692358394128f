"""The sentences of a report that hold figures, all computed from the run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffpo.report.data import Arm, FrontierPoint
from diffpo.report.table import display, interval_percent, percent
from diffpo.statistics.bootstrap import Interval
from diffpo.statistics.frontier import upper_hull_nfe

NEAR_BEST = 0.01


@dataclass(frozen=True)
class Figure:
    """What one arm achieves, as one accuracy and one NFE."""

    arm: str
    name: str
    accuracy: str
    interval: str
    nfe: str
    rule: str


def representative(arm: Arm) -> FrontierPoint | None:
    """Return the point that stands for an arm: its learned sampler's, else that of its cheapest nearly best rule.

    Nearly best is within one percentage point of the arm's best. The most accurate rule itself is often a slow one that
    is ahead by noise, and would make any arm that is compared with it look fast. None where nothing was evaluated.
    """
    if arm.learned:
        return arm.learned.point
    if not arm.points:
        return None
    best = max(point.accuracy for point in arm.points)
    return min((p for p in arm.points if p.accuracy >= best - NEAR_BEST), key=lambda p: (p.nfe, -p.accuracy))


def figures(arms: Sequence[Arm]) -> list[Figure]:
    """Return a figure for each evaluated arm."""
    found = []
    for arm in arms:
        if point := representative(arm):
            rule = "learned sampler" if arm.learned else point.rule
            interval = interval_percent(point.ci95, 0)
            found.append(
                Figure(arm.name, display(arm.name), percent(point.accuracy, 0), interval, f"{point.nfe:.1f}", rule)
            )
    return found


def headline(arms: Sequence[Arm]) -> str:
    """Return what DiFFPO, or else the last arm, achieves, and how that compares with each other arm."""
    known = [(arm, point) for arm in arms if (point := representative(arm))]
    if not known:
        return "Nothing was evaluated in this run yet."
    main, point = next(((arm, point) for arm, point in known if arm.name == "diffpo"), known[-1])
    sampler = "its learned sampler" if main.learned else point.rule
    start = (
        f"{display(main.name)} with {sampler} solves {percent(point.accuracy, 0)} % of {point.n} unseen problems "
        f"in {point.nfe:.1f} denoiser calls"
    )
    others = [_comparison(arm, other, point) for arm, other in known if arm is not main]
    return f"{start}: {'; '.join(others)}." if others else f"{start}."


def _comparison(arm: Arm, point: FrontierPoint, main: FrontierPoint) -> str:
    """Return how the main point compares with the point of another arm."""
    name = "the base model" if arm.name == "base" else display(arm.name)
    points = 100 * (main.accuracy - point.accuracy)
    if points >= 0:
        more = f"{points:.0f} points more than" if points >= 0.5 else "as many as"
        return f"{more} {name} ({percent(point.accuracy, 0)} % in {point.nfe:.1f}), {_times(point.nfe / main.nfe)}"
    calls = upper_hull_nfe(
        np.array([p.nfe for p in arm.points]), np.array([p.accuracy for p in arm.points]), main.accuracy
    )
    return (
        f"{-points:.0f} points less than {name} ({percent(point.accuracy, 0)} % in {point.nfe:.1f}), "
        f"which for the same accuracy needs {calls:.1f} calls"
    )


def _times(ratio: float) -> str:
    if ratio >= 1.05:
        return f"in {ratio:.1f}\N{MULTIPLICATION SIGN} fewer calls"
    return "in as many calls" if ratio > 1 / 1.05 else f"in {1 / ratio:.1f}\N{MULTIPLICATION SIGN} as many calls"


def gain_sentence(arm: Arm) -> str | None:
    """Return what the learned sampler adds to fixed bounds on the same model, with its uncertainty."""
    if arm.gain is None:
        return None
    gain = arm.gain
    accuracy = (
        f"{100 * gain.accuracy:+.1f} points [{100 * gain.accuracy_ci95[0]:+.1f}, {100 * gain.accuracy_ci95[1]:+.1f}]"
    )
    calls = f"{gain.nfe:+.2f} [{gain.nfe_ci95[0]:+.2f}, {gain.nfe_ci95[1]:+.2f}]"
    return (
        "Against the best mixture of fixed entropy bounds on the same model the learned sampler is worth "
        f"{accuracy} of accuracy at equal NFE ({_verdict(gain.accuracy_ci95)}), and saves {calls} calls per problem "
        f"at equal accuracy ({_verdict(gain.nfe_ci95)})."
    )


def _verdict(interval: Interval) -> str:
    if interval[0] > 0:
        return "a gain"
    return "a loss" if interval[1] < 0 else "not told apart from nothing by this many problems"
