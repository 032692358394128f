"""Constants that a learned sampler has to beat: fixed rules that were chosen on problems of another split.

The best mixture of fixed rules (statistics/frontier.py) is fitted to the problems on which it is compared. A constant
is chosen on validation problems, so that its figures on the test's are not the best of many.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from diffpo.statistics.bootstrap import Clusters, Interval, Seed, percentile_interval, resampled_run_means
from diffpo.statistics.frontier import Gain, Number, upper_hull_accuracy, upper_hull_nfe
from diffpo.statistics.runs import mean_over_runs

Verdict = Literal["ahead", "behind", "undecided", "unknown"]


def best_constant(
    accuracy: Float[np.ndarray, " k"], nfe: Float[np.ndarray, " k"], length: Number, price: Number
) -> int:
    """Return the index of the rule with the largest accuracy - price * nfe / length; of equal ones, the cheapest.

    `price` is what `length` calls cost in accuracy, a fraction; `length` is L, the tokens of a completion.
    """
    worth = accuracy - price * nfe / length
    return int(np.lexsort((nfe, -worth))[0])


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
    draws: int = 2000,
    seed: Seed = 0,
) -> ConstantGain:
    """Compare a learned sampler with a constant on the same n problems, paired, in s training runs or in one.

    Each run may have a constant of its own. Intervals resample clusters and runs; the choice of the constant, on other
    problems, is held fixed.
    """
    n = len(solved)
    pairs = ((learned_solved, solved), (nfe, learned_nfe))
    difference = np.stack([(np.asarray(a, dtype=float) - b).reshape(n, -1) for a, b in pairs], axis=2)
    accuracy, calls = difference.mean(axis=(0, 1))
    drawn = resampled_run_means(difference, clusters, draws, seed)
    return ConstantGain(
        float(accuracy), percentile_interval(drawn[:, 0]), float(calls), percentile_interval(drawn[:, 1])
    )


def mean_gain_over_fixed(
    solved: Shaped[np.ndarray, "n s k"],
    nfe: Shaped[np.ndarray, "n s k"],
    learned_solved: Shaped[np.ndarray, "n s"],
    learned_nfe: Shaped[np.ndarray, "n s"],
    clusters: Clusters,
    draws: int = 2000,
    seed: Seed = 0,
) -> Gain:
    """Return the mean over s training runs of each run's gain over the best mixture of the k fixed rules of its model.

    For runs that train model and sampler together, where every model has a frontier of its own; `gain_over_fixed` is
    for runs that share one model. In every resample of clusters the mixtures are fitted again, and runs are drawn with
    replacement. Outside of the range of the fixed rules a run is compared with the end of that range.
    """
    k = solved.shape[2]
    table = np.concatenate([solved, nfe, learned_solved[:, :, None], learned_nfe[:, :, None]], axis=2)

    def statistic(means: Float[np.ndarray, " columns"]) -> Interval:
        fixed_accuracy, fixed_nfe, (accuracy, calls) = means[:k], means[k : 2 * k], means[2 * k :]
        accuracy_of_fixed = upper_hull_accuracy(fixed_nfe, fixed_accuracy, max(calls, fixed_nfe.min()))
        nfe_of_fixed = upper_hull_nfe(fixed_nfe, fixed_accuracy, min(accuracy, fixed_accuracy.max()))
        return accuracy - accuracy_of_fixed, nfe_of_fixed - calls

    accuracy, calls = mean_over_runs(table, clusters, statistic, draws, seed)
    return Gain(accuracy.value, accuracy.ci95, calls.value, calls.ci95)


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
