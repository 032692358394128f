"""The sentences of a report that hold figures, all computed from the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffpo.report.compared import and_more, area_sentence, shortlist
from diffpo.report.data import Arm, FrontierPoint
from diffpo.report.learned import verdict_words
from diffpo.report.table import calls_text, calls_words, interval_percent, percent
from diffpo.report.verdicts import point_verdict
from diffpo.statistics.comparison import FrontierDifference
from diffpo.statistics.constant import NEAR_BEST, STANDING_PRICE, cheapest_near_best
from diffpo.statistics.frontier import upper_hull_nfe

PLAIN_SUM = "plain sum: bounds all entropies of a call together; other entropy bounds leave out the largest"
COMMIT_RISK = "commit risk: bounds the sum of learned risks that a token spoils the answer"


@dataclass(frozen=True)
class Figure:
    """What one arm achieves, as one accuracy and one NFE."""

    arm: str
    accuracy: str
    interval: str
    nfe: str
    rule: str
    explained: str
    """What a word in the rule's name means; nothing where all are plain."""


def representative(arm: Arm) -> FrontierPoint | None:
    """Return the point that stands for an arm: its learned sampler's, else that of the constant that validation chose.

    The learned sampler may be one with prices, at `STANDING_PRICE`, at which the constant is the best, too. Where none
    was chosen it is the cheapest rule that is nearly the arm's best: a slow one that leads by noise would make any arm
    that is compared with it look fast. None where nothing was evaluated.
    """
    if arm.learned:
        return arm.learned.point
    if arm.price_curve and (bought := arm.price_curve.at(STANDING_PRICE)):
        return bought
    if not arm.points:
        return None
    if chosen := next((p for p in arm.points if p.rule == arm.best_constants.get(STANDING_PRICE)), None):
        return chosen
    accuracy, nfe = (np.array([getattr(point, name) for point in arm.points]) for name in ("accuracy", "nfe"))
    return arm.points[cheapest_near_best(accuracy, nfe)]


def figures(arms: Sequence[Arm]) -> list[Figure]:
    """Return a figure for each evaluated arm."""
    found = []
    for arm in arms:
        if point := representative(arm):
            rule = rule_words(arm, point)
            interval = interval_percent(point.ci95, 0)
            explained = PLAIN_SUM if "(plain sum)" in rule else COMMIT_RISK if "commit risk" in rule else ""
            found.append(Figure(arm.name, percent(point.accuracy, 0), interval, calls_text(point.nfe), rule, explained))
    return found


def rule_words(arm: Arm, point: FrontierPoint) -> str:
    """Return the rule of an arm's representative point in words: a sampler with prices chose it among its rules."""
    if arm.learned:
        return "learned sampler"
    is_bought = arm.price_curve is not None and point is arm.price_curve.at(STANDING_PRICE)
    return f"learned sampler, price {STANDING_PRICE:g}: {point.rule}" if is_bought else point.rule


def rules(arms: Sequence[Arm]) -> dict[str, str]:
    """Return, by arm, the name of the rule whose point stands for it."""
    return {arm.name: point.rule for arm in arms if (point := representative(arm))}


def basis(
    arms: Sequence[Arm], compared: Mapping[str, FrontierDifference], main: str, most: int | None = None
) -> str | None:
    """Return what the headline's words rest on: differences with their intervals, losses too.

    Where whole frontiers were `compared` it is how they do, otherwise what the points of the other arms are to that of
    the `main` arm, and whether its learned sampler is better than fixed bounds. Of more than `most` other arms, some
    are told of, those first that are not simply beaten. None where there is nothing to say.
    """
    if compared:
        return area_sentence(main, compared, most)
    points = [(arm, point) for arm in arms if (point := representative(arm))]
    ours = next(((arm, point) for arm, point in points if arm.name == main), None)
    if ours is None:
        return None
    arm, point = ours
    verdicts = {other.name: point_verdict(point, theirs) for other, theirs in points if other is not arm}
    told = shortlist(verdicts, most)
    others = [_comparison(other, theirs, point) for other, theirs in points if other.name in told]
    found = []
    if others:
        words = rule_words(arm, point)
        sampler = f"its {words}" if words.startswith("learned sampler") else words
        found = [f"{main} with {sampler} solves {'; '.join(others)}.{and_more(verdicts, told)}"]
    if arm.learned and arm.gain:
        found.append(f"Its learned sampler is {verdict_words(arm)}.")
    return " ".join(found) or None


def _comparison(arm: Arm, point: FrontierPoint, main: FrontierPoint) -> str:
    """Return how the main point compares with the point of another arm."""
    name = "the base model" if arm.name == "base" else arm.name
    points = 100 * (main.accuracy - point.accuracy)
    if points >= 0:
        more = f"{points:.0f} points more than" if points >= 0.5 else "as many as"
        return (
            f"{more} {name} ({percent(point.accuracy, 0)} % in {calls_text(point.nfe)}), {_times(point.nfe / main.nfe)}"
        )
    calls = upper_hull_nfe(
        np.array([p.nfe for p in arm.points]), np.array([p.accuracy for p in arm.points]), main.accuracy
    )
    return (
        f"{-points:.0f} points less than {name} ({percent(point.accuracy, 0)} % in {calls_text(point.nfe)}), "
        f"which for the same accuracy needs {calls_words(calls)}"
    )


def _times(ratio: float) -> str:
    if ratio >= 1.05:
        return f"in {ratio:.1f}\N{MULTIPLICATION SIGN} fewer calls"
    return "in as many calls" if ratio > 1 / 1.05 else f"in {1 / ratio:.1f}\N{MULTIPLICATION SIGN} as many calls"


def frontier_sentence(arms: Sequence[Arm]) -> str | None:
    """Return where d1 solves more than DiFFPO within as many calls, by the most; None where it does nowhere.

    A gap of less than one point is not mentioned. Learned samplers are left out: their calls cannot be chosen.
    """
    found = {arm.name: arm for arm in arms if arm.points}
    if not {"d1", "DiFFPO"} <= found.keys():
        return None
    other, main = found["d1"], found["DiFFPO"]
    calls = [point.nfe for point in other.points]
    gap, within = max((_best_within(other, nfe) - _best_within(main, nfe), nfe) for nfe in calls)
    if gap < NEAR_BEST:
        return None
    theirs, ours = (percent(_best_within(arm, within)) for arm in (other, main))
    return (
        f"With fixed bounds alone, d1 solves more than DiFFPO in few calls: {theirs} % against {ours} % within "
        f"{within:.2f}. One arm is better than another where its whole line is above, and not where a point of it is."
    )


def _best_within(arm: Arm, calls: float) -> float:
    return max((point.accuracy for point in arm.points if point.nfe <= calls), default=0.0)
