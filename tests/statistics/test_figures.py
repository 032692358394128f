"""Expected numbers are worked by hand from the definitions; the bootstrap is judged by its coverage."""

import math
import time

import numpy as np
import pytest

from diffpo.statistics import figures

CLUSTERED = np.array([0.0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1])


def width(interval: figures.Interval) -> float:
    return interval[1] - interval[0]


# ------------------------------------------------------------------------------------------------------- bootstrap


def test_interval_of_two_clusters_can_be_listed() -> None:
    # Two clusters of sizes 3 and 1 with sums 3 and 0: the resamples are AA = 3/3, AB = 3/4, BB = 0/1.
    means = figures.resampled_means(np.array([[1], [1], [1], [0]]), ["a", "a", "a", "b"], draws=4000)
    values, counts = np.unique(means, return_counts=True)
    np.testing.assert_allclose(values, [0, 0.75, 1], rtol=1e-12)
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_copies_within_a_cluster_do_not_shrink_the_interval() -> None:
    names = np.arange(12)
    once = figures.mean_interval(CLUSTERED, names)
    copied = figures.mean_interval(np.repeat(CLUSTERED, 4), np.repeat(names, 4))
    assert copied == pytest.approx(once, rel=1e-12)
    naive = figures.mean_interval(np.repeat(CLUSTERED, 4), np.arange(48))
    assert width(naive) == pytest.approx(width(once) / 2, rel=0.15)


def test_width_agrees_with_the_normal_interval_when_rows_are_independent() -> None:
    values = (np.arange(600) % 10 < 3).astype(float)
    interval = figures.mean_interval(values, np.arange(600))
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
            low, high = figures.mean_interval(values, clusters, draws=300, seed=trial)
            covered[name] += low <= 0 <= high
    assert 0.89 <= covered["by cluster"] / trials <= 0.99
    assert covered["by row"] / trials < 0.85


def test_columns_are_resampled_together() -> None:
    # Two rules that agree on every problem differ by nothing, however many problems are drawn.
    table = np.stack([CLUSTERED, CLUSTERED], axis=1)
    assert figures.cluster_bootstrap(table, np.arange(12), lambda m: m[0] - m[1]) == (0, 0)


def test_names_of_clusters_do_not_matter_and_the_seed_does() -> None:
    numbers = np.arange(12)
    assert figures.mean_interval(CLUSTERED, numbers) == figures.mean_interval(CLUSTERED, [f"{i:03d}" for i in numbers])
    first, second = (figures.resampled_means(CLUSTERED[:, None], numbers, 50, seed) for seed in (0, 1))
    assert not np.array_equal(first, second)
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(first, figures.resampled_means(CLUSTERED[:, None], numbers, 50, generator))


@pytest.mark.parametrize(("rows", "names"), [(0, 0), (3, 2)])
def test_rows_without_clusters_are_refused(rows: int, names: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows and {names} cluster names"):
        figures.mean_interval(np.zeros(rows), list(range(names)))


def test_a_thousand_problems_and_ten_rules_take_well_under_a_second() -> None:
    values = np.random.default_rng(0).random((1000, 10))
    start = time.perf_counter()
    figures.resampled_means(values, np.arange(1000), draws=2000)
    assert time.perf_counter() - start < 1


# -------------------------------------------------------------------------------------------------------- frontier


def test_pareto_front_keeps_what_nothing_beats() -> None:
    nfe = np.array([8.0, 2.0, 4.0, 4.0, 6.0, 16.0, 2.0])
    accuracy = np.array([0.7, 0.2, 0.6, 0.5, 0.6, 0.7, 0.2])
    # 3 is beaten at equal NFE, 4 and 5 at equal accuracy, 6 is a copy of 1.
    assert figures.pareto_front(nfe, accuracy).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("nfe", "accuracy", "area"),
    [
        ([1.0], [1.0], 1.0),
        ([16.0], [1.0], 0.0),  # as many calls as tokens: no speed at all
        ([4.0], [0.5], 0.25),  # half of the log range at 0.5
        ([1.0, 4.0], [0.25, 0.5], 0.375),
        ([4.0, 1.0, 8.0], [0.5, 0.25, 0.4], 0.375),  # order and beaten points are nothing
        ([0.5, 1.0], [0.1, 0.25], 0.25),  # below the range counts at its end
        ([4.0, 32.0], [0.5, 1.0], 0.25),  # beyond the range does not count
    ],
)
def test_frontier_area(nfe: list[float], accuracy: list[float], area: float) -> None:
    assert figures.frontier_area(np.array(nfe), np.array(accuracy), hi=16) == pytest.approx(area, rel=1e-12)


def test_frontier_area_between_other_ends() -> None:
    # Three doublings from 2 to 16: one at 0.25, from 2 to 4, and two at 0.5.
    nfe, accuracy = np.array([2.0, 4.0]), np.array([0.25, 0.5])
    assert figures.frontier_area(nfe, accuracy, hi=16, lo=2) == pytest.approx((0.25 + 2 * 0.5) / 3, rel=1e-12)
    # From 4 on the cheaper rule is beaten; from 3 on it is what there is until 4.
    assert figures.frontier_area(nfe, accuracy, hi=16, lo=4) == pytest.approx(0.5, rel=1e-12)
    share = math.log(4 / 3) / math.log(16 / 3)
    assert figures.frontier_area(nfe, accuracy, hi=16, lo=3) == pytest.approx(
        0.25 * share + 0.5 * (1 - share), rel=1e-12
    )


def test_frontier_area_refuses_an_empty_range() -> None:
    with pytest.raises(ValueError, match="lo=1 hi=1"):
        figures.frontier_area(np.array([1.0]), np.array([1.0]), hi=1)


@pytest.mark.parametrize(
    ("rho", "percent", "expected"),
    [
        ([1.0], [80.0], 80.0),
        ([2.0], [80.0], 160.0),
        # 78 has W = exp(-3 * 2 / 80): 80 + 1/2 (80 + 78 * 0.927743); 60 is more than 5 below.
        ([1.0, 2.0, 4.0], [80.0, 78.0, 60.0], 156.1819960),
        ([4.0, 2.0, 1.0], [60.0, 78.0, 80.0], 156.1819960),
        # Exactly 5 below is kept: W(75) = exp(-3 * 5 / 80) = 0.829029; 80 + 2/2 (80 + 62.177184).
        ([1.0, 3.0], [80.0, 75.0], 222.1771839),
        # A point dropped in the middle leaves one trapezoid over its gap: 80 + 3/2 (80 + 80).
        ([1.0, 2.0, 4.0], [80.0, 10.0, 80.0], 320.0),
    ],
)
def test_aup(rho: list[float], percent: list[float], expected: float) -> None:
    assert figures.aup(np.array(rho), np.array(percent), best_accuracy=80.0) == pytest.approx(expected, rel=1e-8)


def test_aup_caps_the_weight_and_survives_an_arm_that_solves_nothing() -> None:
    rho = np.array([1.0, 2.0])
    assert figures.aup(rho, np.array([80.0, 90.0]), best_accuracy=80.0) == pytest.approx(80 + (80 + 90) / 2, rel=1e-12)
    assert figures.aup(rho, np.zeros(2), best_accuracy=0.0) == 0


def test_aup_weighs_all_but_the_first_term() -> None:
    # y_1 = 40 of a best of 80: W = exp(-1.5) = 0.223130; 40 + 1/2 (2 * 40 * 0.223130).
    value = figures.aup(np.array([1.0, 2.0]), np.array([40.0, 40.0]), best_accuracy=80.0)
    assert value == pytest.approx(48.9252064, rel=1e-8)


def test_estimates_read_the_columns_of_the_tables() -> None:
    solved = np.array([[1, 1], [0, 1], [1, 1], [0, 0]])  # 0.5 and 0.75
    nfe = np.array([[2, 8], [1, 8], [4, 8], [1, 8]])  # 2 and 8
    area = figures.frontier_area_estimate(solved, nfe, list("abcd"), hi=16)
    assert area.value == pytest.approx((0.5 * 2 + 0.75 * 1) / 4, rel=1e-12)
    assert area.ci95[0] < area.value < area.ci95[1]
    aup = figures.aup_estimate(solved, nfe, list("abcd"), tokens=16, best_accuracy=75.0)
    assert aup.value == pytest.approx(figures.aup(np.array([2.0, 8.0]), np.array([75.0, 50.0]), 75.0), rel=1e-12)
    assert aup.value == pytest.approx(2 * 75.0, rel=1e-12)  # 50 is more than 5 below 75
    assert aup.ci95[0] < aup.value < aup.ci95[1]


# ---------------------------------------------------------------------------------------- learned against fixed bounds

NFE = np.array([8.0, 2.0, 6.0, 4.0])
ACCURACY = np.array([0.7, 0.2, 0.5, 0.6])


@pytest.mark.parametrize(("at", "expected"), [(2.0, 0.2), (3.0, 0.4), (4.0, 0.6), (6.0, 0.65), (99.0, 0.7)])
def test_upper_hull_accuracy(at: float, expected: float) -> None:
    assert figures.upper_hull_accuracy(NFE, ACCURACY, at) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("at", "expected"), [(0.1, 2.0), (0.2, 2.0), (0.4, 3.0), (0.65, 6.0), (0.7, 8.0)])
def test_upper_hull_nfe(at: float, expected: float) -> None:
    assert figures.upper_hull_nfe(NFE, ACCURACY, at) == pytest.approx(expected, rel=1e-12)


def test_the_hull_says_what_no_mixture_can_do() -> None:
    assert math.isnan(figures.upper_hull_accuracy(NFE, ACCURACY, 1.9))
    assert figures.upper_hull_nfe(NFE, ACCURACY, 0.71) == math.inf


def test_the_hull_bridges_a_dent_that_the_front_keeps() -> None:
    nfe, accuracy = np.array([2.0, 4.0, 8.0]), np.array([0.2, 0.3, 0.8])
    assert figures.pareto_front(nfe, accuracy).tolist() == [0, 1, 2]
    assert figures.upper_hull(nfe, accuracy).tolist() == [0, 2]
    assert figures.upper_hull_accuracy(nfe, accuracy, 5.0) == pytest.approx(0.5, rel=1e-12)
    assert figures.upper_hull(np.array([2.0, 4.0, 6.0]), np.array([0.25, 0.5, 0.75])).tolist() == [0, 2]


# Half of the problems are easy. The loose rule spends 2 calls and solves those, the tight one 8 and solves all.
IS_EASY = np.arange(200) % 2 == 0
SOLVED = np.stack([IS_EASY, np.ones(200, dtype=bool)], axis=1)
CALLS = np.stack([np.full(200, 2), np.full(200, 8)], axis=1)


def test_gain_of_a_sampler_that_knows_the_easy_ones() -> None:
    calls = np.where(IS_EASY, 2, 8)  # 5 on average; the mixture solves 0.75 at 5, and needs 8 to solve all
    gain = figures.gain_over_fixed(SOLVED, CALLS, np.ones(200, dtype=bool), calls, np.arange(200))
    assert (gain.accuracy, gain.nfe) == pytest.approx((0.25, 3.0), rel=1e-12)
    # With a share p of easy ones drawn the gain is p (1 - p), which has its maximum at the sample's own 1/2: only a
    # mixture that is fitted again in every resample stays below 0.25.
    assert 0.24 < gain.accuracy_ci95[0] < gain.accuracy_ci95[1] <= 0.25 + 1e-12
    assert gain.nfe_ci95 == pytest.approx((6 * 0.43, 6 * 0.57), rel=0.05)


def test_a_blind_mixture_gains_nothing() -> None:
    is_tight = np.arange(200) // 2 % 2 == 0
    gain = figures.gain_over_fixed(SOLVED, CALLS, IS_EASY | is_tight, np.where(is_tight, 8, 2), np.arange(200))
    assert (gain.accuracy, gain.nfe) == pytest.approx((0, 0), abs=1e-12)
    assert gain.accuracy_ci95[0] < 0 < gain.accuracy_ci95[1]


def test_outside_the_range_of_the_fixed_rules_the_gain_is_understated_and_finite() -> None:
    fixed, calls = np.ones((50, 1)) * (np.arange(50) % 2)[:, None], np.full((50, 1), 4)
    gain = figures.gain_over_fixed(fixed, calls, np.ones(50), np.full(50, 3), np.arange(50))
    assert (gain.accuracy, gain.nfe) == pytest.approx((0.5, 1.0), rel=1e-12)
    assert np.isfinite([*gain.accuracy_ci95, *gain.nfe_ci95]).all()


def test_training_runs_are_pooled_and_their_spread_is_counted() -> None:
    problems = np.arange(200)
    one, none = np.ones(200), np.zeros(200)
    calls = np.full((200, 2), 8)
    same = figures.gain_over_fixed(SOLVED, CALLS, np.stack([one, one], axis=1), calls, problems)
    alone = figures.gain_over_fixed(SOLVED, CALLS, one, calls[:, 0], problems)
    assert same.accuracy == alone.accuracy == 0
    assert [same.accuracy_ci95, alone.accuracy_ci95] == [(0, 0), (0, 0)]
    apart = figures.gain_over_fixed(SOLVED, CALLS, np.stack([one, none], axis=1), calls, problems)
    assert apart.accuracy == pytest.approx(-0.5, rel=1e-12)
    assert apart.accuracy_ci95 == pytest.approx((-1, 0), abs=1e-12)


# --------------------------------------------------------------------------------------------------- single figures


@pytest.mark.parametrize(
    ("weights", "size"), [([1.0, 1.0, 1.0], 3.0), ([5.0, 0.0], 1.0), ([1.0, 1.0, 2.0], 16 / 6), ([0.0, 0.0], 0.0)]
)
def test_effective_sample_size(weights: list[float], size: float) -> None:
    assert figures.effective_sample_size(np.array(weights)) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "c", "k", "chance"), [(5, 2, 1, 0.4), (5, 2, 2, 0.7), (5, 2, 4, 1.0), (5, 0, 5, 0.0), (200, 1, 100, 0.5)]
)
def test_pass_at_k(n: int, c: int, k: int, chance: float) -> None:
    assert figures.pass_at_k(n, c, k) == pytest.approx(chance, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6)])
def test_pass_at_k_refuses_what_cannot_be_drawn(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"n={n} c={c} k={k}"):
        figures.pass_at_k(n, c, k)
