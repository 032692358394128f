"""Intervals of figures that rest on a choice among rules, as "the best accuracy within so many calls" does.

The best of several noisy accuracies is too high on average: the noise takes part in the choice. Rules that are chosen
on four fifths of the clusters and scored on the rest have no such bias, but are chosen from less, and are too low where
one rule is really best. The truth lies between, at a place that depends on how nearly equal the rules are and that no
sample tells. So an interval here reaches from below the one to above the other (Imbens and Manski 2004).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Shaped

from diffpo.statistics.intervals import (
    Clusters,
    Interval,
    cluster_sums,
    half_width,
    left_out_means,
    widened,
    wilson_interval,
)
from diffpo.statistics.student import student_quantile

NORMAL = NormalDist()
FOLDS, SPLITS = 5, 4
"""The clusters are split into folds so many times; in each split every fold is scored by the choice of the others."""
Figure = Callable[
    [Float[np.ndarray, "*b k"], Float[np.ndarray, "*b k"], Float[np.ndarray, "*b k"]], Float[np.ndarray, "*b"]
]
"""Accuracy, mean NFE, and the accuracy by which rules are chosen, of k rules -> a figure."""


@dataclass(frozen=True)
class Measured:
    """A figure of each of s training runs, measured on c clusters."""

    values: Float[np.ndarray, " s"]
    """Of the whole sample, which also chose."""
    moves: Float[np.ndarray, "c s"]
    """What each cluster adds to the figure."""
    span: Interval
    """From the honest figure, whose choices are scored on other clusters, to the sample's, or the other way about."""

    def __sub__(self, other: "Measured") -> "Measured":
        """Return the paired difference: the same problems, and run by run. The spans need not lie alike: they add."""
        span = (self.span[0] - other.span[1], self.span[1] - other.span[0])
        return Measured(self.values - other.values, self.moves - other.moves, span)

    @property
    def value(self) -> float:
        return float(self.values.mean())

    @property
    def half_width(self) -> float:
        """Half the width of the interval if there were no choice."""
        return half_width(self.moves, self.values)

    def interval_of_share(self, rows: int) -> Interval:
        """Return the interval of a figure in [0, 1], from so many rows."""
        half = self.half_width
        least = student_quantile(max(1, len(self.moves) - 1)) ** 2 / rows if half == 0 else 0.0
        low, high = (wilson_interval(end, reach(half, self.span), least) for end in self.span)
        return low[0], high[1]

    def interval_of_difference(self, rows: int) -> Interval:
        """Return the interval of a difference of shares, from so many rows; it stays within [-1, 1]."""
        low, high = self.interval(widened(self.half_width, rows, len(self.moves)))
        return max(-1.0, low), min(1.0, high)

    def interval(self, half: float | None = None) -> Interval:
        """Return the interval of a figure; `half` stands for half the width that it has without a choice."""
        beyond = reach(self.half_width if half is None else half, self.span)
        return self.span[0] - beyond, self.span[1] + beyond


def reach(half: float, span: Interval) -> float:
    """Return how far beyond a span an interval reaches which holds, in 95 % of samples, any one truth in the span.

    `half` is half the width where the span is a point. Where the span is long a truth can be missed on one side only,
    and the reach falls to 1.645 / 1.96 of that.
    """
    if half == 0 or math.isinf(half):
        return half
    length = (span[1] - span[0]) * NORMAL.inv_cdf(0.975) / half
    low, high = NORMAL.inv_cdf(0.95), NORMAL.inv_cdf(0.975)
    for _ in range(30):
        middle = (low + high) / 2
        is_enough = NORMAL.cdf(middle + length) - NORMAL.cdf(-middle) >= 0.95
        low, high = (low, middle) if is_enough else (middle, high)
    return half * high / NORMAL.inv_cdf(0.975)


def measure(
    figure: Figure, solved: Shaped[np.ndarray, "n *s k"], nfe: Shaped[np.ndarray, "n *s k"], clusters: Clusters
) -> Measured:
    """Measure a figure of k rules on n rows, in each of s training runs where there are several."""
    n, k = len(solved), solved.shape[-1]
    solved, nfe = (np.asarray(table, dtype=float).reshape(n, -1, k) for table in (solved, nfe))
    accuracy, left_accuracy = left_out_means(solved, clusters)
    calls, left_calls = left_out_means(nfe, clusters)
    values = figure(accuracy, calls, accuracy)
    moves = values - figure(left_accuracy, left_calls, left_accuracy)
    chosen_by, scored, weights = folds(solved, clusters)
    # The folds differ in accuracy alone: calls are known better, and it is not by them that the best is chosen.
    honest = weights @ figure(scored, np.broadcast_to(calls, scored.shape), chosen_by) if len(weights) else values
    ends = sorted([float(values.mean()), float(honest.mean())])
    return Measured(values, moves, (ends[0], ends[1]))


def folds(
    values: Float[np.ndarray, "n s k"], clusters: Clusters
) -> tuple[Float[np.ndarray, "f s k"], Float[np.ndarray, "f s k"], Float[np.ndarray, " f"]]:
    """Return means over all but a fold of the clusters, over the fold, and the fold's weight; weights add up to 1.

    Of a single cluster there are none. The folds are random, and the same for every table with these clusters.
    """
    sums, sizes = cluster_sums(values, clusters), cluster_sums(np.ones(len(values)), clusters)
    c = len(sums)
    if c == 1:
        return values[:0], values[:0], np.zeros(0)
    rng = np.random.default_rng(0)
    fold_of = np.stack([rng.permutation(c) % FOLDS for _ in range(SPLITS)])
    is_scored = np.concatenate([fold_of == fold for fold in range(min(FOLDS, c))]).astype(float)
    means = [np.tensordot(part, sums, 1) / (part @ sizes)[:, None, None] for part in (1 - is_scored, is_scored)]
    return means[0], means[1], is_scored @ sizes / len(values) / SPLITS
