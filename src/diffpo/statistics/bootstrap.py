"""Percentile bootstrap intervals of figures that are functions of column means.

The problems are the sample, and problems that share a cluster (the solution grid of a Sudoku) are drawn together. Every
rule is evaluated on the same problems, so one draw of clusters serves all columns of a table: comparisons are paired.
Only the column means count, so the rows are summed per cluster once, and a resample is a weighted sum of those sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

Interval = tuple[float, float]
Clusters = np.ndarray | Sequence[str] | Sequence[int]
Seed = int | np.random.Generator


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    ci95: Interval


def resampled_means(
    values: Shaped[np.ndarray, "n k"], clusters: Clusters, draws: int = 2000, seed: Seed = 0
) -> Float[np.ndarray, "draws k"]:
    """Return the column means of `draws` resamples, in which whole clusters are drawn with replacement.

    A resample has as many clusters as the sample, hence not always as many rows: its mean is a ratio of two sums.
    Raises ValueError unless there is a cluster name for each row, and at least one row.
    """
    if len(values) == 0 or len(values) != len(clusters):
        raise ValueError(f"{len(values)} rows and {len(clusters)} cluster names: need as many of each, at least one")
    rng = np.random.default_rng(seed)
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    sizes = np.bincount(index)
    means = np.empty((draws, values.shape[1]))
    for draw in range(draws):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        means[draw] = times @ sums / (times @ sizes)
    return means


def percentile_interval(samples: Float[np.ndarray, " draws"]) -> Interval:
    """Return the 2.5th and the 97.5th percentile."""
    low, high = np.percentile(samples, (2.5, 97.5))
    return float(low), float(high)


def cluster_bootstrap(
    values: Shaped[np.ndarray, "n k"],
    clusters: Clusters,
    statistic: Callable[[Float[np.ndarray, " k"]], float],
    draws: int = 2000,
    seed: Seed = 0,
) -> Interval:
    """Return the percentile 95 % interval of `statistic(column means [k])`; clusters are drawn for all columns at once.

    Like every percentile bootstrap it is too narrow with few clusters (below about 20), and has no width where the
    sample has no spread: a rule that solved nothing gets [0, 0].
    """
    means = resampled_means(values, clusters, draws, seed)
    return percentile_interval(np.array([statistic(row) for row in means], dtype=float))


def mean_interval(values: Shaped[np.ndarray, " n"], clusters: Clusters, draws: int = 2000, seed: Seed = 0) -> Interval:
    """Return the percentile 95 % interval of the mean of `values`; see `cluster_bootstrap` for its limits."""
    return percentile_interval(resampled_means(values[:, None], clusters, draws, seed)[:, 0])


def resampled_run_means(
    values: Shaped[np.ndarray, "n s k"], clusters: Clusters, draws: int = 2000, seed: Seed = 0
) -> Float[np.ndarray, "draws k"]:
    """Return column means over n rows and s training runs, where both clusters and runs are drawn with replacement.

    Every run was evaluated on the same rows. So an interval made from these means speaks of other problems and other
    runs; with s runs the spread between them is understated by a factor (s - 1) / s in variance, and one run has none.
    """
    n, s, k = values.shape
    rng = np.random.default_rng(seed)
    means = resampled_means(values.reshape(n, s * k), clusters, draws, rng).reshape(draws, s, k)
    weights = rng.multinomial(s, np.full(s, 1 / s), size=draws) / s
    averaged: np.ndarray = np.einsum("dsk,ds->dk", means, weights)
    return averaged
