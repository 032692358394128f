"""The sentences of a report that carry figures, all computed from the run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffpo.report.data import Arm, Point
from diffpo.report.table import display, interval_percent, percent
from diffpo.statistics.bootstrap import Interval
from diffpo.statistics.frontier import upper_hull_nfe

NEAR_BEST = 0.01


@dataclass(frozen=True)
class Figure:
    """What one arm achieves, in one accuracy and one NFE."""

    arm: str
    name: str
    accuracy: str
    interval: str
    nfe: str
    rule: str


def representative(arm: Arm) -> Point | None:
    """The learned sampler's point; else that of the cheapest rule within one percentage point of the arm's best.

    The most accurate rule itself is often a slow one that is ahead by noise, which would flatter whoever is compared.
    """
    if arm.learned:
        return arm.learned.point
    if not arm.points:
        return None
    best = max(point.accuracy for point in arm.points)
    return min((p for p in arm.points if p.accuracy >= best - NEAR_BEST), key=lambda p: (p.nfe, -p.accuracy))


def figures(arms: Sequence[Arm]) -> list[Figure]:
    """One figure per evaluated arm."""
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
    """What the last arm of the story achieves, and how that compares with each arm before it."""
    known = [(arm, point) for arm in arms if (point := representative(arm))]
    if not known:
        return "Nothing was evaluated in this run yet."
    hero, point = next(((arm, point) for arm, point in known if arm.name == "diffpo"), known[-1])
    sampler = "its learned sampler" if hero.learned else point.rule
    start = (
        f"{display(hero.name)} with {sampler} solves {percent(point.accuracy, 0)} % of {point.n} unseen problems "
        f"in {point.nfe:.1f} denoiser calls"
    )
    others = [_comparison(arm, its, point) for arm, its in known if arm is not hero]
    return f"{start}: {'; '.join(others)}." if others else f"{start}."


def _comparison(other: Arm, its: Point, hero: Point) -> str:
    name = "the base model" if other.name == "base" else display(other.name)
    points = 100 * (hero.accuracy - its.accuracy)
    if points >= 0:
        more = f"{points:.0f} points more than" if points >= 0.5 else "as many as"
        return f"{more} {name} ({percent(its.accuracy, 0)} % in {its.nfe:.1f}), {_times(its.nfe / hero.nfe)}"
    calls = upper_hull_nfe(
        np.array([p.nfe for p in other.points]), np.array([p.accuracy for p in other.points]), hero.accuracy
    )
    return (
        f"{-points:.0f} points less than {name} ({percent(its.accuracy, 0)} % in {its.nfe:.1f}), "
        f"which for the same accuracy needs {calls:.1f} calls"
    )


def _times(ratio: float) -> str:
    if ratio >= 1.05:
        return f"in {ratio:.1f}\N{MULTIPLICATION SIGN} fewer calls"
    return "in as many calls" if ratio > 1 / 1.05 else f"in {1 / ratio:.1f}\N{MULTIPLICATION SIGN} as many calls"


def gain_sentence(arm: Arm) -> str | None:
    """What the learned sampler adds to fixed bounds on the same model, said with its uncertainty."""
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
