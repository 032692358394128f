"""Figures of several training runs that were evaluated on the same problems."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from diffpo.statistics.bootstrap import Clusters, Estimate, Seed, percentile_interval, resampled_means


def mean_over_runs(
    values: Shaped[np.ndarray, "n s c"],
    clusters: Clusters,
    statistic: Callable[[Float[np.ndarray, " c"]], Sequence[float]],
    draws: int = 2000,
    seed: Seed = 0,
) -> list[Estimate]:
    """Return the means over s runs of the figures that `statistic` computes from a run's column means.

    Where runs were trained apart each has figures of its own, which are averaged; the mean of the columns would be of a
    run that nobody did. Intervals are percentiles over resamples in which clusters and runs are drawn with replacement.
    """
    n, runs, columns = values.shape
    rng = np.random.default_rng(seed)
    means = resampled_means(values.reshape(n, -1), clusters, draws, rng).reshape(draws, runs, columns)
    weights = rng.multinomial(runs, np.full(runs, 1 / runs), size=draws) / runs

    def figures(of_runs: Float[np.ndarray, "s c"]) -> Float[np.ndarray, "s m"]:
        return np.array([statistic(row) for row in of_runs], dtype=float)

    samples = np.array([weight @ figures(row) for row, weight in zip(means, weights, strict=True)])
    whole = figures(values.mean(axis=0)).mean(axis=0)
    return [Estimate(float(value), percentile_interval(column)) for value, column in zip(whole, samples.T, strict=True)]
