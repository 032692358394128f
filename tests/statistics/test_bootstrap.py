"""Intervals are worked by hand where the resamples can be listed, and judged by their coverage elsewhere."""

import math
import time

import numpy as np
import pytest

from diffpo.statistics import bootstrap

CLUSTERED = np.array([0.0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1])


def width(interval: bootstrap.Interval) -> float:
    return interval[1] - interval[0]


def test_interval_of_two_clusters_can_be_listed() -> None:
    # Two clusters of sizes 3 and 1 with sums 3 and 0: the resamples are AA = 3/3, AB = 3/4, BB = 0/1.
    means = bootstrap.resampled_means(np.array([[1], [1], [1], [0]]), ["a", "a", "a", "b"], draws=4000)
    values, counts = np.unique(means, return_counts=True)
    np.testing.assert_allclose(values, [0, 0.75, 1], rtol=1e-12)
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_copies_within_a_cluster_do_not_shrink_the_interval() -> None:
    names = np.arange(12)
    once = bootstrap.mean_interval(CLUSTERED, names)
    copied = bootstrap.mean_interval(np.repeat(CLUSTERED, 4), np.repeat(names, 4))
    assert copied == pytest.approx(once, rel=1e-12)
    naive = bootstrap.mean_interval(np.repeat(CLUSTERED, 4), np.arange(48))
    assert width(naive) == pytest.approx(width(once) / 2, rel=0.15)


def test_width_agrees_with_the_normal_interval_when_rows_are_independent() -> None:
    values = (np.arange(600) % 10 < 3).astype(float)
    interval = bootstrap.mean_interval(values, np.arange(600))
    assert width(interval) == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 600), rel=0.06)
    assert sum(interval) / 2 == pytest.approx(0.3, abs=0.004)


def test_coverage_needs_the_clusters() -> None:
    rng = np.random.default_rng(7)
    covered = {"by cluster": 0, "by row": 0}
    trials = 200
    for trial in range(trials):
        effects = np.repeat(rng.normal(size=40), 3)
        values = effects + 0.3 * rng.normal(size=120)
        for name, clusters in (("by cluster", np.repeat(np.arange(40), 3)), ("by row", np.arange(120))):
            low, high = bootstrap.mean_interval(values, clusters, draws=300, seed=trial)
            covered[name] += low <= 0 <= high
    assert 0.89 <= covered["by cluster"] / trials <= 0.99
    assert covered["by row"] / trials < 0.85


def test_columns_are_resampled_together() -> None:
    # Two rules that agree on every problem differ by nothing, however many problems are drawn.
    table = np.stack([CLUSTERED, CLUSTERED], axis=1)
    assert bootstrap.cluster_bootstrap(table, np.arange(12), lambda m: m[0] - m[1]) == (0, 0)


def test_names_of_clusters_do_not_matter_and_the_seed_does() -> None:
    numbers = np.arange(12)
    assert bootstrap.mean_interval(CLUSTERED, numbers) == bootstrap.mean_interval(
        CLUSTERED, [f"{i:03d}" for i in numbers]
    )
    first, second = (bootstrap.resampled_means(CLUSTERED[:, None], numbers, 50, seed) for seed in (0, 1))
    assert not np.array_equal(first, second)
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(first, bootstrap.resampled_means(CLUSTERED[:, None], numbers, 50, generator))


@pytest.mark.parametrize(("rows", "names"), [(0, 0), (3, 2)])
def test_rows_without_clusters_are_refused(rows: int, names: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows and {names} cluster names"):
        bootstrap.mean_interval(np.zeros(rows), list(range(names)))


def test_a_thousand_problems_and_ten_rules_take_well_under_a_second() -> None:
    values = np.random.default_rng(0).random((1000, 10))
    start = time.perf_counter()
    bootstrap.resampled_means(values, np.arange(1000), draws=2000)
    assert time.perf_counter() - start < 1
