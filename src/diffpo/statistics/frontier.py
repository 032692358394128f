"""Figures of an accuracy-NFE frontier: Pareto front, area under it, AUP, and their 95 % intervals.

Every figure is a function of column means (accuracy and mean NFE of each rule). NFE counts denoiser calls per row;
accuracy is a fraction in [0, 1] unless a name says percent.
"""

import math
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from diffpo.statistics.choice import Figure, measure
from diffpo.statistics.intervals import Clusters, Estimate, half_width, left_out_means

Number = int | float
AUP_MARGIN = 5
"""A point that is more percent below the slowest one has no part in AUP."""


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
    return float(staircase_area(accuracy, nfe, accuracy, hi, lo))


def staircase_area(
    accuracy: Shaped[np.ndarray, "*b k"],
    nfe: Shaped[np.ndarray, "*b k"],
    chosen_by: Shaped[np.ndarray, "*b k"],
    hi: Number,
    lo: Number = 1,
) -> Float[np.ndarray, "*b"]:
    """Return the `frontier_area` of many frontiers, where the best rule at each NFE is the best by `chosen_by`."""
    if not 0 < lo < hi:
        raise ValueError(f"the range of NFE must have 0 < lo < hi, got lo={lo} hi={hi}")
    nfe, chosen = steps_of(accuracy, nfe, chosen_by)
    edges = np.log(np.clip(nfe, lo, hi))
    widths = np.diff(edges, axis=-1, append=math.log(hi))
    return np.asarray((widths * chosen).sum(axis=-1) / math.log(hi / lo))


def staircase_accuracy(
    accuracy: Shaped[np.ndarray, "*b k"],
    nfe: Shaped[np.ndarray, "*b k"],
    chosen_by: Shaped[np.ndarray, "*b k"],
    at: Number,
) -> Float[np.ndarray, "*b"]:
    """Return the accuracy of the best rule, by `chosen_by`, that needs at most `at` calls; 0 where none does."""
    nfe, chosen = steps_of(accuracy, nfe, chosen_by)
    within = (nfe <= at + 1e-9).sum(axis=-1, keepdims=True)  # a mean of n times `at` is not always `at`
    best = np.take_along_axis(chosen, np.maximum(within - 1, 0), axis=-1)
    return np.asarray(np.where(within > 0, best, 0.0)[..., 0])


def steps_of(
    accuracy: Shaped[np.ndarray, "*b k"], nfe: Shaped[np.ndarray, "*b k"], chosen_by: Shaped[np.ndarray, "*b k"]
) -> tuple[Float[np.ndarray, "*b k"], Float[np.ndarray, "*b k"]]:
    """Return NFE in rising order, and after each the accuracy of the rule up to there that is best by `chosen_by`."""
    order = np.argsort(nfe, axis=-1, kind="stable")
    nfe, accuracy, chosen_by = (np.take_along_axis(table, order, axis=-1) for table in (nfe, accuracy, chosen_by))
    best = np.maximum.accumulate(chosen_by, axis=-1)
    is_better = np.concatenate([np.ones_like(best[..., :1], dtype=bool), best[..., 1:] > best[..., :-1]], axis=-1)
    which = np.maximum.accumulate(np.where(is_better, np.arange(nfe.shape[-1]), 0), axis=-1)
    return nfe.astype(float), np.take_along_axis(accuracy, which, axis=-1).astype(float)


def frontier_area_estimate(
    solved: Shaped[np.ndarray, "n *s k"],
    nfe: Shaped[np.ndarray, "n *s k"],
    clusters: Clusters,
    hi: Number,
    lo: Number = 1,
) -> Estimate:
    """Return the `frontier_area` of k rules, with its interval, from one row per problem.

    Several training runs have an axis of their own, and the mean of their areas is estimated. The truth that the
    interval speaks of is the area of the rules' true accuracies and calls, with the best rule at each NFE chosen by
    them: the sample's area is above it on average (`choice` says why), and is not the middle of the interval.
    """
    found = measure(partial(staircase_area, hi=hi, lo=lo), solved, nfe, clusters)
    return Estimate(found.value, found.interval_of_share(len(solved)))


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
    kept = accuracy_percent >= accuracy_percent[slowest(tokens_per_forward, accuracy_percent)] - AUP_MARGIN
    return float(aup_of_kept(tokens_per_forward[kept], accuracy_percent[kept], np.asarray(float(best_accuracy))))


def slowest(rho: Shaped[np.ndarray, " k"], y: Shaped[np.ndarray, " k"]) -> int:
    """Return the index of the point of the smallest rho; of several, the most accurate."""
    return int(np.lexsort((-np.asarray(y, dtype=float), rho))[0])


def aup_of_kept(
    rho: Shaped[np.ndarray, "*b k"], y: Shaped[np.ndarray, "*b k"], best: Shaped[np.ndarray, "*b"]
) -> Float[np.ndarray, "*b"]:
    """Return the `aup` of points of which all are kept. y_max is at least the best of them in `aup`'s use."""
    order = np.lexsort((-np.asarray(y, dtype=float), rho), axis=-1)
    rho, y = (np.take_along_axis(table, order, axis=-1) for table in (rho, y))
    weighted = y * np.minimum(np.exp(-3 * (1 - y / best[..., None])), 1)
    steps = np.diff(rho, axis=-1) * (weighted[..., 1:] + weighted[..., :-1]) / 2
    return np.asarray(rho[..., 0] * y[..., 0] + steps.sum(axis=-1))


def aup_estimate(
    solved: Shaped[np.ndarray, "n k"],
    nfe: Shaped[np.ndarray, "n k"],
    clusters: Clusters,
    tokens: Number,
    rivals_solved: Shaped[np.ndarray, "n m"] | None = None,
) -> Estimate:
    """Return the `aup` of k rules, with its interval, from one row per problem; rho is `tokens` over a rule's mean NFE.

    y_max is the best accuracy of these rules and of the m rules of other methods, and is as uncertain as they are.
    Which points AUP keeps jumps with y_i >= y_1 - 5. So there is an interval for every set of points that the sample
    does not rule out: those that are surely kept, and from the undecided ones the best, the best two, and so on. The
    interval returned spans them all, and is wide where a point with a large part in AUP is undecided.
    """
    k = solved.shape[1]
    all_solved = solved if rivals_solved is None else np.hstack([solved, rivals_solved])
    all_nfe = np.hstack([nfe, np.ones((len(nfe), all_solved.shape[1] - k))])  # calls of rivals play no part
    calls = nfe.mean(axis=0)
    y, left_y = (100 * means for means in left_out_means(np.asarray(solved, dtype=float), clusters))
    first = slowest(-calls, y)
    above, left_above = (table - table[..., [first]] + AUP_MARGIN for table in (y, left_y))
    doubt = np.array([half_width(moves[:, None], np.zeros(1)) for moves in (above - left_above).T])
    is_sure = np.abs(above) > doubt
    is_sure[first] = True

    def of_kept(kept: Bool[np.ndarray, " k"]) -> Figure:
        def figure(
            accuracy: Shaped[np.ndarray, "*b j"], nfe: Shaped[np.ndarray, "*b j"], chosen_by: Shaped[np.ndarray, "*b j"]
        ) -> Float[np.ndarray, "*b"]:
            best = 100 * np.take_along_axis(accuracy, chosen_by.argmax(axis=-1)[..., None], axis=-1)[..., 0]
            is_solved = best > 0
            found = aup_of_kept(
                tokens / nfe[..., :k][..., kept], 100 * accuracy[..., :k][..., kept], np.where(is_solved, best, 1.0)
            )
            return np.where(is_solved, found, 0.0)

        return figure

    value = aup(tokens / calls, y, 100 * float(all_solved.mean(axis=0).max()))
    ends = [value]
    for least in (math.inf, *above[~is_sure]):
        found = measure(of_kept(np.where(is_sure, above >= 0, above >= least)), all_solved, all_nfe, clusters)
        ends += found.interval()
    return Estimate(value, (max(0.0, min(ends)), max(ends)))


# ----------------------------------------------------------------------------------------------------------- mixtures


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
