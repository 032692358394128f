"""Expected numbers are worked by hand from the definitions; how often intervals hold the truth: test_coverage.py."""

import math

import numpy as np
import pytest

from diffpo.statistics import intervals
from diffpo.statistics.student import student_quantile

T1, T2, T11, T19 = 12.70620, 4.30265, 2.20099, 2.09302
"""Student's quantiles at 1, 2, 11 and 19 degrees of freedom."""
CLUSTERED = np.array([0.0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0])


def half(interval: intervals.Interval) -> float:
    return (interval[1] - interval[0]) / 2


def test_independent_rows_have_the_interval_of_the_textbook() -> None:
    # Six ones and six zeros: variance 12 / 11 / 4, eleven degrees of freedom.
    interval = intervals.mean_interval(CLUSTERED, np.arange(12))
    assert sum(interval) / 2 == pytest.approx(0.5, rel=1e-12)
    assert half(interval) == pytest.approx(T11 * math.sqrt(3 / 11 / 12), rel=1e-5)


def test_unequal_clusters_are_left_out_one_at_a_time() -> None:
    # 3/4 becomes 0 without the cluster of three and 1 without the other: (3/4)^2 + (1/4)^2 = 5/8, halved.
    means, left_out = intervals.left_out_means(np.array([[1], [1], [1], [0]]), ["a", "a", "a", "b"])
    assert means == pytest.approx(0.75) and left_out[:, 0].tolist() == [0, 1]
    interval = intervals.mean_interval(np.array([1, 1, 1, 0]), ["a", "a", "a", "b"])
    assert interval == pytest.approx((0.75 - T1 * math.sqrt(5 / 16), 0.75 + T1 * math.sqrt(5 / 16)), rel=1e-5)


def test_copies_within_a_cluster_do_not_shrink_the_interval() -> None:
    names = np.arange(12)
    once = intervals.mean_interval(CLUSTERED, names)
    copied = intervals.mean_interval(np.repeat(CLUSTERED, 4), np.repeat(names, 4))
    assert copied == pytest.approx(once, rel=1e-12)
    assert half(intervals.mean_interval(np.repeat(CLUSTERED, 4), np.arange(48))) < 0.5 * half(once)


def test_names_of_clusters_do_not_matter() -> None:
    named = intervals.mean_interval(CLUSTERED, [f"{i:03d}" for i in range(12)])
    assert named == intervals.mean_interval(CLUSTERED, np.arange(12))


def test_few_clusters_that_carry_the_spread_have_few_degrees_of_freedom() -> None:
    assert intervals.cluster_degrees(np.array([1.0, -1, 1, -1])) == 3
    # Squares 4, 4, 1, 1 add up to 10; their squares to 34, less 100 / 4: 2 * 100 / 9 is more than 3.
    assert intervals.cluster_degrees(np.array([2.0, -2, 1, -1])) == 3
    # 100 and ten ones: 110; 10010 less 12100 / 11 is 8910: 2 * 12100 / 8910.
    assert intervals.cluster_degrees(np.array([10.0, *[1] * 10])) == pytest.approx(2 * 12100 / 8910, rel=1e-12)
    assert intervals.cluster_degrees(np.zeros(5)) == 4


@pytest.mark.parametrize(("rows", "names"), [(0, 0), (3, 2)])
def test_rows_without_clusters_are_refused(rows: int, names: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows and {names} cluster names"):
        intervals.mean_interval(np.zeros(rows), list(range(names)))


def test_one_cluster_tells_nothing() -> None:
    assert intervals.mean_interval(CLUSTERED, ["a"] * 12) == (-math.inf, math.inf)
    assert intervals.share_interval(CLUSTERED, ["a"] * 12) == (0, 1)
    assert intervals.ratio_interval(CLUSTERED, np.ones(12), ["a"] * 12) is None


# ----------------------------------------------------------------------------------------------- several training runs


def test_an_interval_of_calls_begins_at_one_call_and_is_else_that_of_the_mean() -> None:
    nfe = np.array([1.0] * 11 + [16.0])
    (low, high), (plain, above) = (of(nfe, np.arange(12)) for of in (intervals.calls_interval, intervals.mean_interval))
    assert plain < 1 and (low, high) == (1.0, above)
    assert intervals.calls_interval(nfe + 7, np.arange(12)) == pytest.approx((plain + 7, above + 7), rel=1e-12)
    assert intervals.calls_interval(nfe, ["a"] * 12) == (1.0, math.inf)


def test_what_moves_all_runs_alike_and_what_tells_runs_apart_are_added() -> None:
    """Twelve rows in three runs, each value the sum of a row's and a run's: nothing is of a row in one run alone."""
    values = CLUSTERED[:, None] + np.array([0.0, 1, 5])  # the runs' 0, 1, 5 have a mean of 2 and a variance of 7
    rows, runs = 3 / 11 / 12, 7 / 3
    apart = math.sqrt(T11**2 * rows + T2**2 * runs)
    degrees = (rows + runs) ** 2 / (rows**2 / 11 + runs**2 / 2)
    pooled = student_quantile(degrees) * math.sqrt(rows + runs)
    interval = intervals.mean_interval(values, np.arange(12))
    assert sum(interval) / 2 == pytest.approx(2.5, rel=1e-12)
    assert half(interval) == pytest.approx((apart + pooled) / 2, rel=1e-5)


def test_what_a_row_has_in_one_run_alone_is_counted_once() -> None:
    """It is all in the spread between runs: of rows that have nothing in common, runs are independent means."""
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(400, 3))
    runs -= runs.mean(axis=1, keepdims=True)  # what a row has in common is nothing, and so is the mean of the runs
    interval = intervals.mean_interval(runs, np.arange(400))
    assert half(interval) == pytest.approx(T2 * math.sqrt(runs.mean(axis=0).var(ddof=1) / 3), rel=1e-5)


def test_the_parts_are_those_of_an_analysis_of_variance() -> None:
    """Mean squares of 40 rows, of 4 runs, and of what is left, of which the mean of all has 1 / 160."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=4) + 2 * rng.normal(size=(40, 4))
    rows, runs, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    of_rows, of_runs = 4 * rows.var(ddof=1), 40 * runs.var(ddof=1)
    rest = ((values - rows[:, None] - runs + mean) ** 2).sum() / 39 / 3
    assert of_rows > rest
    common, across = (of_rows - rest) / 160, of_runs / 160
    degrees = intervals.cluster_degrees(rows - mean)
    apart = math.hypot(student_quantile(degrees) * common**0.5, student_quantile(3.0) * across**0.5)
    pooled = student_quantile((common + across) ** 2 / (common**2 / degrees + across**2 / 3)) * (common + across) ** 0.5
    assert half(intervals.mean_interval(values, np.arange(40))) == pytest.approx((apart + pooled) / 2, rel=1e-9)


def test_equal_runs_are_worth_one() -> None:
    one = intervals.mean_interval(CLUSTERED, np.arange(12))
    assert intervals.mean_interval(np.stack([CLUSTERED] * 5, axis=1), np.arange(12)) == pytest.approx(one, rel=1e-9)
    assert intervals.mean_interval(CLUSTERED[:, None], np.arange(12)) == one


# --------------------------------------------------------------------------------------------- shares and differences


def test_nothing_of_twenty_is_at_most_a_sixth_or_so() -> None:
    least = T19**2 / 20
    for none, expected in ((np.zeros(20), (0, least / (1 + least))), (np.ones(20), (1 / (1 + least), 1))):
        assert intervals.share_interval(none, np.arange(20)) == pytest.approx(expected, rel=1e-4, abs=1e-12)
    # Five runs that solved nothing know no more problems than one.
    five = intervals.share_interval(np.zeros((20, 5)), np.arange(20))
    assert five == pytest.approx((0, least / (1 + least)), rel=1e-4, abs=1e-12)


def test_a_share_has_the_interval_of_wilson() -> None:
    # 5 of 20: q = t^2 / 19 in place of z^2 / n, for the variance p (1 - p) / (n - 1) of a sample.
    q = T19**2 / 19
    middle, width = (0.25 + q / 2) / (1 + q), math.sqrt(0.25 * 0.75 * q + q**2 / 4) / (1 + q)
    interval = intervals.share_interval((np.arange(20) < 5).astype(float), np.arange(20))
    assert interval == pytest.approx((middle - width, middle + width), rel=1e-4)


def test_rows_of_a_cluster_that_agree_count_as_one() -> None:
    solved = np.repeat((np.arange(20) < 5).astype(float), 4)
    interval = intervals.share_interval(solved, np.repeat(np.arange(20), 4))
    assert interval == pytest.approx(intervals.share_interval(solved[::4], np.arange(20)), rel=1e-9)
    # Clusters whose rows cancel each other look like more rows than there are, and are not.
    cancelling = intervals.share_interval(np.tile([0.0, 1.0], 20), np.repeat(np.arange(20), 2))
    q = T19**2 / 40
    assert half(cancelling) == pytest.approx(math.sqrt(q / 4 + q**2 / 4) / (1 + q), rel=1e-4)


def test_rules_that_agree_on_all_problems_may_still_differ() -> None:
    assert intervals.difference_interval(np.zeros(20), np.arange(20)) == pytest.approx((-T19 / 22, T19 / 22), rel=1e-4)
    assert half(intervals.difference_interval(np.zeros((20, 3)), np.arange(20))) == pytest.approx(T19 / 62, rel=1e-4)
    differences = np.array([1.0, -1, 0, 0] * 5)
    plain = half(intervals.mean_interval(differences, np.arange(20)))
    wider = half(intervals.difference_interval(differences, np.arange(20)))
    assert wider == pytest.approx(math.hypot(plain, T19 / 22), rel=1e-4)


# -------------------------------------------------------------------------------------------------------------- ratios


def test_a_ratio_is_compared_with_what_it_is_without_each_cluster() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, size=30).astype(float)
    sums, names = counts * rng.gamma(2, size=30), (np.arange(30) * 7) % 13 % 8
    ratio = sums.sum() / counts.sum()
    without = [sums[names != name].sum() / counts[names != name].sum() for name in range(8)]
    moves = ratio - np.array(without)
    interval = intervals.ratio_interval(sums, counts, names)
    assert interval is not None and sum(interval) / 2 == pytest.approx(ratio, rel=1e-12)
    degrees = intervals.cluster_degrees(moves)
    expected = student_quantile(degrees) * math.sqrt(7 / 8 * moves @ moves)
    assert half(interval) == pytest.approx(expected, rel=1e-9)
    copied = intervals.ratio_interval(np.stack([sums] * 3, axis=1), np.stack([counts] * 3, axis=1), names)
    assert copied == pytest.approx(interval, rel=1e-9)


def test_a_ratio_of_one_rollout_has_no_interval() -> None:
    counts = np.zeros((10, 3))
    counts[4, 1] = 2
    assert intervals.ratio_interval(2 * counts, counts, np.arange(10)) is None
    counts[5, 1] = 1
    assert intervals.ratio_interval(2 * counts, counts, np.arange(10)) == pytest.approx((2, 2))
