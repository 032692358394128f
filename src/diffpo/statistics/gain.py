"""What a learned sampler adds to fixed rules: against their best mixture, in accuracy and in calls."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from diffpo.statistics.choice import Figure, Measured, measure
from diffpo.statistics.frontier import Number
from diffpo.statistics.intervals import Clusters, Interval, mean_interval

CALLS = 2e-3
"""The ends of the interval of calls saved are found to so many calls."""


@dataclass(frozen=True)
class Gain:
    """What a learned sampler adds to the best mixture of fixed bounds; positive is better in both.

    `accuracy` is the difference at equal mean NFE (a fraction), `nfe` the denoiser calls saved at equal accuracy.
    """

    accuracy: float
    accuracy_ci95: Interval
    nfe: float
    nfe_ci95: Interval


def mixture_accuracy(
    accuracy: Shaped[np.ndarray, "*b k"],
    nfe: Shaped[np.ndarray, "*b k"],
    chosen_by: Shaped[np.ndarray, "*b k"],
    at_nfe: Shaped[np.ndarray, "*b"],
) -> Float[np.ndarray, "*b"]:
    """Return `upper_hull_accuracy` of many sets of rules, where the mixture is the best by `chosen_by`.

    It is that of one rule which spends at most `at_nfe`, or of such a rule and one that spends more.
    """
    k = nfe.shape[-1]
    x = at_nfe[..., None, None]
    cheap, dear = nfe[..., :, None], nfe[..., None, :]
    is_pair = (cheap <= x) & (dear > x)
    # On the diagonal a rule is mixed with itself.
    share = np.where(is_pair, (x - cheap) / np.where(is_pair, dear - cheap, 1), 0)
    value = chosen_by[..., :, None] + share * (chosen_by[..., None, :] - chosen_by[..., :, None])
    is_allowed = is_pair | (np.eye(k, dtype=bool) & (cheap <= x))
    pairs = (*nfe.shape[:-1], k * k)
    best = np.where(is_allowed, value, -math.inf).reshape(pairs).argmax(axis=-1)[..., None]
    first, second = (np.take_along_axis(accuracy, which, axis=-1)[..., 0] for which in (best // k, best % k))
    return np.asarray(first + np.take_along_axis(share.reshape(pairs), best, axis=-1)[..., 0] * (second - first))


def accuracy_of_mixture(
    accuracy: Shaped[np.ndarray, "*b k"],
    nfe: Shaped[np.ndarray, "*b k"],
    chosen_by: Shaped[np.ndarray, "*b k"],
    at: Number,
) -> Float[np.ndarray, "*b"]:
    """Return `mixture_accuracy` at the same number of mean calls in all sets; 0 where every rule needs more."""
    found = mixture_accuracy(accuracy, nfe, chosen_by, np.maximum(nfe.min(axis=-1), at))
    return np.asarray(np.where(nfe.min(axis=-1) <= at + 1e-9, found, 0.0))


def gain_over_fixed(
    solved: Shaped[np.ndarray, "n *fixed k"],
    nfe: Shaped[np.ndarray, "n *fixed k"],
    learned_solved: Shaped[np.ndarray, " n *s"],
    learned_nfe: Shaped[np.ndarray, " n *s"],
    clusters: Clusters,
) -> Gain:
    """Compare a learned sampler with the best mixture of k fixed rules of the same model.

    The learned arrays hold a column per training run, `[n, s]`, or one run, `[n]`; the fixed ones, `[n, s, k]`, rules
    of each run's own model, or `[n, k]`, of one model that all runs share. The gain in accuracy is the mean over runs.
    Calls saved are the d at which that mean would be 0 if the mixtures spent d calls more than the learned sampler, and
    their interval holds every d that the interval of the gain in accuracy at d does not rule out: where more calls
    bring nothing it is as wide as the range of the rules.

    Where the learned sampler leaves the range of the fixed rules it is compared with the end of that range: with the
    cheapest rule's accuracy if it spends less, with the dearest rule's NFE if it solves more. Both understate it.
    """
    n, k = len(solved), solved.shape[-1]
    runs = learned_solved.reshape(n, -1).shape[1]
    fixed = (np.broadcast_to(table.reshape(n, -1, k), (n, runs, k)) for table in (solved, nfe))
    all_solved, all_nfe = (
        np.concatenate([table, learned.reshape(n, runs, 1)], axis=2)
        for table, learned in zip(fixed, (learned_solved, learned_nfe), strict=True)
    )

    def at(more_calls: float) -> Measured:
        return measure(gain_at(more_calls), all_solved, all_nfe, clusters)

    def interval_at(more_calls: float) -> Interval:
        return at(more_calls).interval_of_difference(n * runs)

    accuracy, calls = all_solved.mean(axis=0), all_nfe.mean(axis=0)
    # How many calls more the cheapest and the dearest rule of each run spend.
    ends = [
        np.take_along_axis(all_nfe, rule[None, :, None], axis=2)[..., 0] - all_nfe[..., -1]
        for rule in (calls[:, :-1].argmin(axis=1), calls[:, :-1].argmax(axis=1))
    ]
    lowest, highest = (float(end.mean()) for end in ends)
    saved = crossing(lambda d: float(gain_at(d)(accuracy, calls, accuracy).mean()) <= 1e-12, lowest, highest, 1e-9)
    low = crossing(lambda d: interval_at(d)[0] <= 0, lowest, saved, CALLS)
    high = crossing(lambda d: interval_at(d)[1] < 0, saved, highest, CALLS)
    # Where the range ends is itself measured.
    low, high = (
        {lowest: mean_interval(ends[0], clusters)[side], highest: mean_interval(ends[1], clusters)[side]}.get(end, end)
        for side, end in enumerate((low, high))
    )
    return Gain(at(0.0).value, interval_at(0.0), saved, (low, high))


def gain_at(more_calls: float) -> Figure:
    """Return the figure that is the last rule's accuracy less that of the best mixture of the others, which spends so
    many calls more than it; no less than the cheapest of them."""

    def figure(
        accuracy: Shaped[np.ndarray, "*b k"], nfe: Shaped[np.ndarray, "*b k"], chosen_by: Shaped[np.ndarray, "*b k"]
    ) -> Float[np.ndarray, "*b"]:
        fixed, chosen = nfe[..., :-1], chosen_by[..., :-1]
        calls = np.maximum(nfe[..., -1] + more_calls, fixed.min(axis=-1))
        gain: Float[np.ndarray, "*b"] = accuracy[..., -1] - mixture_accuracy(accuracy[..., :-1], fixed, chosen, calls)
        return gain

    return figure


def crossing(is_past: Callable[[float], bool], low: float, high: float, tolerance: float) -> float:
    """Return where a condition that holds from some point on begins to hold, `high` where it does not, by bisection."""
    if is_past(low):
        return low
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (low, middle) if is_past(middle) else (middle, high)
    return high
