"""Constants that a learned sampler has to beat: fixed rules that were chosen on problems of another split.

The best mixture of fixed rules (statistics/frontier.py) is fitted to the problems on which it is compared. A constant
is chosen on validation problems, so that its figures on the test's are not the best of many.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from diffpo.statistics.frontier import Number
from diffpo.statistics.intervals import Clusters, Interval, difference_interval, mean_interval

Verdict = Literal["ahead", "behind", "undecided", "unknown"]

STANDING_PRICE = 0.1
"""The price of as many calls as a completion has tokens at which one rule stands for a model."""
NEAR_BEST = 0.01
"""Accuracies closer than this are not told apart by what they are, but by what they cost."""


def best_constant(
    accuracy: Float[np.ndarray, " k"], nfe: Float[np.ndarray, " k"], length: Number, price: Number
) -> int:
    """Return the index of the rule with the largest accuracy - price * nfe / length; of equal ones, the cheapest.

    `price` is what `length` calls cost in accuracy, a fraction; `length` is L, the tokens of a completion.
    """
    worth = accuracy - price * nfe / length
    return int(np.lexsort((nfe, -worth))[0])


def cheapest_near_best(accuracy: Float[np.ndarray, " k"], nfe: Float[np.ndarray, " k"]) -> int:
    """Return the index of the cheapest rule within `NEAR_BEST` of the best accuracy; of equal ones, the most accurate.

    The most accurate rule itself is often a slow one that is ahead by noise.
    """
    order = np.lexsort((-accuracy, nfe))
    return int(order[accuracy[order] >= accuracy.max() - NEAR_BEST][0])


def constant_within(accuracy: Float[np.ndarray, " k"], nfe: Float[np.ndarray, " k"], calls: Number) -> int:
    """Return the index of the most accurate rule that spends at most `calls` on average; of equal ones, the cheapest.

    Where none is so cheap it is the cheapest of all.
    """
    order = np.lexsort((nfe, -accuracy))
    affordable = order[nfe[order] <= calls]
    return int(affordable[0] if len(affordable) else np.lexsort((-accuracy, nfe))[0])


@dataclass(frozen=True)
class ConstantGain:
    """What a learned sampler adds to one constant, problem by problem; positive is better in both."""

    accuracy: float
    """The difference in accuracy, a fraction."""
    accuracy_ci95: Interval
    nfe: float
    """The calls that the constant spends and the learned sampler does not; both figures are of the same two points."""
    nfe_ci95: Interval


def gain_over_constant(
    solved: Shaped[np.ndarray, " n *s"],
    nfe: Shaped[np.ndarray, " n *s"],
    learned_solved: Shaped[np.ndarray, " n *s"],
    learned_nfe: Shaped[np.ndarray, " n *s"],
    clusters: Clusters,
) -> ConstantGain:
    """Compare a learned sampler with a constant on the same n problems, paired, in s training runs or in one.

    Each run may have a constant of its own. Intervals speak of other problems and, of several runs, of other runs; the
    choice of the constant, on other problems, is held fixed.
    """
    pairs = ((learned_solved, solved), (nfe, learned_nfe))
    accuracy, calls = (np.asarray(a, dtype=float) - b for a, b in pairs)
    return ConstantGain(
        float(accuracy.mean()),
        difference_interval(accuracy, clusters),
        float(calls.mean()),
        mean_interval(calls, clusters),
    )


def verdict(mixture: Interval | None, constant: Interval | None) -> Verdict:
    """Return whether a learned sampler is ahead of fixed rules, behind them, or neither, as far as is known.

    The intervals are of its gain in accuracy over the best mixture of fixed rules and over the validated constant, None
    where there is none. It is ahead where both are above zero, and behind where one of them is below.
    """
    known = [interval for interval in (mixture, constant) if interval is not None]
    if any(high < 0 for _, high in known):
        return "behind"
    if len(known) < 2:
        return "unknown"
    return "ahead" if all(low > 0 for low, _ in known) else "undecided"
