"""95 % intervals of means over clusters of problems and over training runs.

The problems are the sample, and problems that share a cluster (the solution grid of a Sudoku) are not independent.
Several training runs are a sample, too: every run was evaluated on the same problems, so the two are crossed. What a
cluster contributes is measured by leaving it out (the jackknife), which serves every figure that is computed from
column means. `studies/coverage.py` measures how often each interval holds the truth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from diffpo.statistics.student import student_quantile

Interval = tuple[float, float]
Clusters = np.ndarray | Sequence[str] | Sequence[int]
FEWEST_CALLS = 1.0
"""Denoiser calls for a problem."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    ci95: Interval


def mean_interval(values: Shaped[np.ndarray, " n *s"], clusters: Clusters) -> Interval:
    """Return the interval of the mean of n rows, or of n rows in each of s training runs.

    One run speaks of other problems only, several of other runs too. Where all values agree it has no width; for shares
    of solved problems, which do that near 0 and 1, there is `share_interval`.
    """
    center, half = center_and_half_width(values, clusters)
    return center - half, center + half


def calls_interval(nfe: Shaped[np.ndarray, " n *s"], clusters: Clusters) -> Interval:
    """Return the interval of mean denoiser calls: `mean_interval` without what lies below one call.

    No problem takes less than one, so what is cut off never holds the truth, and coverage stays what it is.
    """
    low, high = mean_interval(nfe, clusters)
    return max(FEWEST_CALLS, low), high


def share_interval(solved: Shaped[np.ndarray, " n *s"], clusters: Clusters) -> Interval:
    """Return the interval of a share of solved problems (1 or 0), of n rows or of n rows in each of s training runs.

    It is Wilson's, for as many independent rows as would have the same spread, and never for more rows than there are.
    So it stays within [0, 1], and a rule that solved nothing of n problems gets about [0, 4 / n].
    """
    share, half = center_and_half_width(solved, clusters)
    # Runs that agree on everything may well be as good as one.
    rows = solved.size if 0 < share < 1 else len(solved)
    return wilson_interval(share, half, student_quantile(max(1, num_clusters(clusters) - 1)) ** 2 / rows)


def difference_interval(differences: Shaped[np.ndarray, " n *s"], clusters: Clusters) -> Interval:
    """Return the interval of the mean of paired differences of shares (solved by one minus solved by another).

    Where the two hardly differ, few rows say how much: half a row is added of each of the four outcomes (Agresti and
    Min 2005). Two rules that agree on n problems get about [-2 / n, 2 / n].
    """
    center, half = center_and_half_width(differences, clusters)
    half = widened(half, differences.size, num_clusters(clusters))
    return max(-1.0, center - half), min(1.0, center + half)


def widened(half: float, rows: int, num_clusters: int) -> float:
    """Return half the width for a difference of shares: `half`, and half a row more of each of the four outcomes."""
    return math.hypot(half, student_quantile(max(1, num_clusters - 1)) / (rows + 2))


def ratio_interval(
    over: Shaped[np.ndarray, " n *s"], under: Shaped[np.ndarray, " n *s"], clusters: Clusters
) -> Interval | None:
    """Return the interval of sum(over) / sum(under), over n rows or over n rows in each of s training runs.

    None where fewer than two clusters have anything in `under`: then there is no telling.
    """
    over, under = (table if table.ndim == 2 else table[:, None] for table in (over, under))
    sums, sizes = (cluster_sums(table, clusters) for table in (over, under))
    if (sizes.sum(axis=1) != 0).sum() < 2:
        return None
    ratio = sums.sum() / sizes.sum()
    moves = (sums - ratio * sizes) * sizes.shape[1] / sizes.sum()
    # A cluster pulls the ratio towards itself, the more the larger its part is: what it would be without it.
    moves /= 1 - sizes.sum(axis=1, keepdims=True) / sizes.sum()
    half = half_width(moves, ratio + moves.sum(axis=0))
    return float(ratio - half), float(ratio + half)


# ------------------------------------------------------------------------------------------------------------- spread


def num_clusters(clusters: Clusters) -> int:
    return len(np.unique(np.asarray(clusters)))


def center_and_half_width(values: Shaped[np.ndarray, " n *s"], clusters: Clusters) -> tuple[float, float]:
    """Return the mean of n rows, or of n rows in each of s training runs, and half the width of its interval."""
    means, left_out = left_out_means(values if values.ndim == 2 else values[:, None], clusters)
    return float(means.mean()), half_width(means - left_out, means)


def cluster_sums(values: Shaped[np.ndarray, "n *k"], clusters: Clusters) -> Float[np.ndarray, "c *k"]:
    """Return the sums of the rows of each cluster. Raises ValueError unless each of one or more rows has a name."""
    if len(values) == 0 or len(values) != len(clusters):
        raise ValueError(f"{len(values)} rows and {len(clusters)} cluster names: need as many of each, at least one")
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums


def left_out_means(
    values: Shaped[np.ndarray, "n *k"], clusters: Clusters
) -> tuple[Float[np.ndarray, "*k"], Float[np.ndarray, "c *k"]]:
    """Return the column means, and those of the rows that remain without each cluster; of one cluster the mean itself.

    Raises ValueError as `cluster_sums` does.
    """
    sums = cluster_sums(values, clusters)
    if len(sums) == 1:
        return sums[0] / len(values), sums / len(values)
    sizes = cluster_sums(np.ones(len(values)), clusters).reshape(-1, *(1 for _ in values.shape[1:]))
    total = sums.sum(axis=0)
    return total / len(values), (total - sums) / (len(values) - sizes)


def half_width(moves: Float[np.ndarray, "c s"], values: Float[np.ndarray, " s"]) -> float:
    """Return half the width of the interval of the mean of a figure over s training runs, measured on c clusters.

    `values` has the figure of each run, `moves` what each cluster adds to it: the figure less that without the cluster.
    One cluster alone has an infinite width.

    The variance of the mean over runs is var(values) / s, and on top of it what clusters add to all runs alike. What a
    cluster adds to a run of its own is in the spread of `values` already: it is taken out of what the clusters add to
    the mean over runs, or it would be counted twice. The two parts have s - 1 and about c - 1 degrees of freedom.
    Adding half widths in quadrature, each with its own quantile (Banerjee 1961), never covers less than 95 %, and up
    to 98 with three runs; one quantile at Satterthwaite's degrees of freedom covers down to 92. Halfway between they
    cover 94 to 97.
    """
    c, s = moves.shape
    if c < 2:
        return math.inf
    of_all = moves.mean(axis=1)
    common, degrees = (c - 1) / c * float(of_all @ of_all), cluster_degrees(of_all)
    if s == 1:
        return student_quantile(degrees) * math.sqrt(common)
    own = (c - 1) / c * float(((moves - of_all[:, None]) ** 2).sum()) / (s * (s - 1))
    common, across = max(0.0, common - own), float(values.var(ddof=1)) / s
    if common + across == 0:
        return 0.0
    apart = math.hypot(student_quantile(degrees) * math.sqrt(common), student_quantile(s - 1) * math.sqrt(across))
    pooled = max(1.0, (common + across) ** 2 / (common**2 / degrees + across**2 / (s - 1)))
    return (apart + student_quantile(pooled) * math.sqrt(common + across)) / 2


def cluster_degrees(moves: Float[np.ndarray, " c"]) -> float:
    """Return the degrees of freedom of sum(moves^2), at least 1: c - 1, or fewer where the squares are very unequal.

    Satterthwaite's 2 E(v)^2 / Var(v), with the variance of v from the fourth powers.
    """
    squares = moves**2
    total = float(squares.sum())
    spread = float(squares @ squares) - total**2 / len(moves)
    return min(len(moves) - 1.0, max(1.0, 2 * total**2 / spread)) if spread > 0 else len(moves) - 1.0


def wilson_interval(share: float, half: float, least: float = 0.0) -> Interval:
    """Return Wilson's interval of a share whose symmetric interval is share +- half; it stays within [0, 1].

    Wilson's has one argument beside the share: squared quantile over number of rows. That many rows give the half width
    here; `least` is its smallest value.
    """
    if math.isinf(half):
        return 0.0, 1.0
    spread = share * (1 - share)
    if not spread > 0:
        return (0.0, least / (1 + least)) if share <= 0 else (1 / (1 + least), 1.0)
    quotient = max(least, half**2 / spread)
    middle = (share + quotient / 2) / (1 + quotient)
    half = math.sqrt(spread * quotient + quotient**2 / 4) / (1 + quotient)
    return max(0.0, middle - half), min(1.0, middle + half)
