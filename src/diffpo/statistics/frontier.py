"""Figures of an accuracy-NFE frontier: Pareto front, area under it, AUP, and the gain of a learned sampler over it.

Every figure is a function of column means (accuracy and mean NFE of each rule), so that the bootstrap can recompute it
on each resample. NFE counts denoiser calls per row; accuracy is a fraction in [0, 1] unless a name says percent.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from diffpo.statistics.bootstrap import (
    Clusters,
    Estimate,
    Interval,
    Seed,
    cluster_bootstrap,
    percentile_interval,
    resampled_means,
)

Number = int | float


def pareto_front(nfe: Shaped[np.ndarray, " k"], accuracy: Shaped[np.ndarray, " k"]) -> Int[np.ndarray, " front"]:
    """Return the indices of the points that no other point beats, cheapest first; of equal points, the first.

    A point is beaten by one that is at least as accurate in at most as many calls, and better in one of the two. Along
    the front both NFE and accuracy rise strictly.
    """
    front: list[int] = []
    best = -math.inf
    for i in np.lexsort((-np.asarray(accuracy, dtype=float), nfe)):
        if accuracy[i] > best:
            front.append(int(i))
            best = float(accuracy[i])
    return np.array(front, dtype=int)


def frontier_area(
    nfe: Shaped[np.ndarray, " k"], accuracy: Shaped[np.ndarray, " k"], hi: Number, lo: Number = 1
) -> float:
    """Return the mean over log NFE in [lo, hi] of the best accuracy that at most so many calls give; 1 is perfect.

    The front is a staircase: no rule between two measured ones is imagined, a beaten point changes nothing, and one
    more point never lowers the area. Below the cheapest point the accuracy is 0. `hi` is the completion length L, the
    calls of one token at a time; a point beyond it is not counted. Raises ValueError unless 0 < lo < hi.
    """
    if not 0 < lo < hi:
        raise ValueError(f"the range of NFE must have 0 < lo < hi, got lo={lo} hi={hi}")
    front = pareto_front(nfe, accuracy)
    steps = np.append(np.log(np.clip(nfe[front], lo, hi)), math.log(hi))
    return float(np.diff(steps) @ accuracy[front] / math.log(hi / lo))


def frontier_area_estimate(
    solved: Shaped[np.ndarray, "n k"],
    nfe: Shaped[np.ndarray, "n k"],
    clusters: Clusters,
    hi: Number,
    lo: Number = 1,
    draws: int = 2000,
    seed: Seed = 0,
) -> Estimate:
    """Return the `frontier_area` of k rules, with its interval, from one row per problem."""

    def statistic(means: Float[np.ndarray, " columns"]) -> float:
        accuracy, calls = np.split(means, 2)
        return frontier_area(calls, accuracy, hi, lo)

    table = np.hstack([solved, nfe])
    return Estimate(statistic(table.mean(0)), cluster_bootstrap(table, clusters, statistic, draws, seed))


def aup(
    tokens_per_forward: Shaped[np.ndarray, " k"], accuracy_percent: Shaped[np.ndarray, " k"], best_accuracy: Number
) -> float:
    """Return d3LLM's accuracy under parallelism (arXiv 2601.07568), in percent times tokens per forward.

    With points (rho_i, y_i) sorted by rho, only y_i >= y_1 - 5 kept, and W(y) = min(exp(-3 (1 - y / y_max)), 1):

        rho_1 y_1 + sum_{i >= 2} (rho_i - rho_{i-1}) / 2 (y_i W(y_i) + y_{i-1} W(y_{i-1}))

    `tokens_per_forward` is completion tokens over NFE: say which tokens were counted. `best_accuracy` (percent) is
    y_max, the best of all methods compared. Of points at the smallest rho, the most accurate is y_1.
    """
    if best_accuracy <= 0:
        return 0.0
    order = np.lexsort((-np.asarray(accuracy_percent, dtype=float), tokens_per_forward))
    rho, y = tokens_per_forward[order], accuracy_percent[order]
    is_kept = y >= y[0] - 5
    rho, y = rho[is_kept], y[is_kept]
    weighted = y * np.minimum(np.exp(-3 * (1 - y / best_accuracy)), 1)
    return float(rho[0] * y[0] + np.diff(rho) @ (weighted[1:] + weighted[:-1]) / 2)


def aup_estimate(
    solved: Shaped[np.ndarray, "n k"],
    nfe: Shaped[np.ndarray, "n k"],
    clusters: Clusters,
    tokens: Number,
    best_accuracy: Number,
    draws: int = 2000,
    seed: Seed = 0,
) -> Estimate:
    """Return the `aup` of k rules, with its interval, from one row per problem; rho is `tokens` over a rule's mean NFE.

    `best_accuracy` (percent) belongs to the comparison, not to this frontier, and is held fixed.
    """

    def statistic(means: Float[np.ndarray, " columns"]) -> float:
        accuracy, calls = np.split(means, 2)
        return aup(tokens / calls, 100 * accuracy, best_accuracy)

    table = np.hstack([solved, nfe])
    return Estimate(statistic(table.mean(0)), cluster_bootstrap(table, clusters, statistic, draws, seed))


# ---------------------------------------------------------------------------------------- learned against fixed bounds


@dataclass(frozen=True)
class Gain:
    """What a learned sampler adds to the best mixture of fixed bounds; positive is better in both.

    `accuracy` is the difference at equal mean NFE (a fraction), `nfe` the denoiser calls saved at equal accuracy.
    """

    accuracy: float
    accuracy_ci95: Interval
    nfe: float
    nfe_ci95: Interval


def upper_hull(nfe: Shaped[np.ndarray, " k"], accuracy: Shaped[np.ndarray, " k"]) -> Int[np.ndarray, " hull"]:
    """Return the indices of the corners of the concave hull above the Pareto front, cheapest first.

    Using one rule on a share of the problems, chosen blindly, and another on the rest reaches every point on the chord
    between the two. The hull is what fixed rules can do without looking at the prompt.
    """
    hull: list[int] = []
    for c in pareto_front(nfe, accuracy):
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            rise_ab = (accuracy[b] - accuracy[a]) * (nfe[c] - nfe[a])
            rise_ac = (accuracy[c] - accuracy[a]) * (nfe[b] - nfe[a])
            if rise_ab > rise_ac:
                break
            hull.pop()
        hull.append(int(c))
    return np.array(hull, dtype=int)


def upper_hull_accuracy(nfe: Shaped[np.ndarray, " k"], accuracy: Shaped[np.ndarray, " k"], at_nfe: Number) -> float:
    """Return the accuracy of the best mixture of the k rules that spends at most `at_nfe` calls on average.

    It is nan below the cheapest rule, where no mixture can go.
    """
    hull = upper_hull(nfe, accuracy)
    return float(np.interp(at_nfe, nfe[hull], accuracy[hull], left=math.nan))


def upper_hull_nfe(nfe: Shaped[np.ndarray, " k"], accuracy: Shaped[np.ndarray, " k"], at_accuracy: Number) -> float:
    """Return the mean calls that the best mixture of the k rules needs to reach `at_accuracy`, or infinity."""
    hull = upper_hull(nfe, accuracy)
    return float(np.interp(at_accuracy, accuracy[hull], nfe[hull], right=math.inf))


def gain_over_fixed(
    solved: Shaped[np.ndarray, "n k"],
    nfe: Shaped[np.ndarray, "n k"],
    learned_solved: Shaped[np.ndarray, " n *s"],
    learned_nfe: Shaped[np.ndarray, " n *s"],
    clusters: Clusters,
    draws: int = 2000,
    seed: Seed = 0,
) -> Gain:
    """Compare a learned sampler with the best mixture of k fixed rules, which is fitted again in every resample.

    The learned arrays hold one column per training run, `[n, s]` or `[n]`. Their mean is compared; with several runs
    the interval resamples runs beside clusters, so it speaks of the training and not of these runs only (with s runs
    the spread between them is understated by a factor (s - 1) / s in variance).

    Where the learned sampler leaves the range of the fixed rules it is compared with the end of that range: with the
    cheapest rule's accuracy if it spends less, with the most accurate rule's NFE if it solves more. Both understate it.
    """
    k, n = solved.shape[1], len(solved)
    learned = np.hstack([learned_solved.reshape(n, -1), learned_nfe.reshape(n, -1)])
    runs = learned.shape[1] // 2

    def statistic(means: Float[np.ndarray, " columns"], weights: Float[np.ndarray, " runs"]) -> Interval:
        fixed_accuracy, fixed_nfe = means[:k], means[k : 2 * k]
        accuracy, calls = (float(part @ weights) for part in np.split(means[2 * k :], 2))
        accuracy_of_fixed = upper_hull_accuracy(fixed_nfe, fixed_accuracy, max(calls, float(fixed_nfe.min())))
        nfe_of_fixed = upper_hull_nfe(fixed_nfe, fixed_accuracy, min(accuracy, float(fixed_accuracy.max())))
        return accuracy - accuracy_of_fixed, nfe_of_fixed - calls

    table = np.hstack([solved, nfe, learned])
    rng = np.random.default_rng(seed)
    means = resampled_means(table, clusters, draws, rng)
    weights = rng.multinomial(runs, np.full(runs, 1 / runs), size=draws) / runs
    samples = np.array([statistic(row, weight) for row, weight in zip(means, weights, strict=True)])
    accuracy, calls = statistic(table.mean(0), np.full(runs, 1 / runs))
    return Gain(accuracy, percentile_interval(samples[:, 0]), calls, percentile_interval(samples[:, 1]))
