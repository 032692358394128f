"""Expected numbers are worked by hand from the definitions."""

import math

import numpy as np
import pytest

from diffpo.statistics import frontier


def test_pareto_front_keeps_what_nothing_beats() -> None:
    nfe = np.array([8.0, 2.0, 4.0, 4.0, 6.0, 16.0, 2.0])
    accuracy = np.array([0.7, 0.2, 0.6, 0.5, 0.6, 0.7, 0.2])
    # 3 is beaten at equal NFE, 4 and 5 at equal accuracy, 6 is a copy of 1.
    assert frontier.pareto_front(nfe, accuracy).tolist() == [1, 2, 0]


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
    assert frontier.frontier_area(np.array(nfe), np.array(accuracy), hi=16) == pytest.approx(area, rel=1e-12)


def test_frontier_area_between_other_ends() -> None:
    # Three doublings from 2 to 16: one at 0.25, from 2 to 4, and two at 0.5.
    nfe, accuracy = np.array([2.0, 4.0]), np.array([0.25, 0.5])
    assert frontier.frontier_area(nfe, accuracy, hi=16, lo=2) == pytest.approx((0.25 + 2 * 0.5) / 3, rel=1e-12)
    # From 4 on the cheaper rule is beaten; from 3 on it is what there is until 4.
    assert frontier.frontier_area(nfe, accuracy, hi=16, lo=4) == pytest.approx(0.5, rel=1e-12)
    share = math.log(4 / 3) / math.log(16 / 3)
    assert frontier.frontier_area(nfe, accuracy, hi=16, lo=3) == pytest.approx(
        0.25 * share + 0.5 * (1 - share), rel=1e-12
    )


def test_frontier_area_refuses_an_empty_range() -> None:
    with pytest.raises(ValueError, match="lo=1 hi=1"):
        frontier.frontier_area(np.array([1.0]), np.array([1.0]), hi=1)


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
    assert frontier.aup(np.array(rho), np.array(percent), best_accuracy=80.0) == pytest.approx(expected, rel=1e-8)


def test_aup_caps_the_weight_and_survives_an_arm_that_solves_nothing() -> None:
    rho = np.array([1.0, 2.0])
    assert frontier.aup(rho, np.array([80.0, 90.0]), best_accuracy=80.0) == pytest.approx(80 + (80 + 90) / 2, rel=1e-12)
    assert frontier.aup(rho, np.zeros(2), best_accuracy=0.0) == 0


def test_aup_weighs_all_but_the_first_term() -> None:
    # y_1 = 40 of a best of 80: W = exp(-1.5) = 0.223130; 40 + 1/2 (2 * 40 * 0.223130).
    value = frontier.aup(np.array([1.0, 2.0]), np.array([40.0, 40.0]), best_accuracy=80.0)
    assert value == pytest.approx(48.9252064, rel=1e-8)


def test_estimates_read_the_columns_of_the_tables() -> None:
    solved = np.array([[1, 1], [0, 1], [1, 1], [0, 0]])  # 0.5 and 0.75
    nfe = np.array([[2, 8], [1, 8], [4, 8], [1, 8]])  # 2 and 8
    area = frontier.frontier_area_estimate(solved, nfe, list("abcd"), hi=16)
    assert area.value == pytest.approx((0.5 * 2 + 0.75 * 1) / 4, rel=1e-12)
    assert area.ci95[0] < area.value < area.ci95[1]
    aup = frontier.aup_estimate(solved, nfe, list("abcd"), tokens=16, best_accuracy=75.0)
    assert aup.value == pytest.approx(frontier.aup(np.array([2.0, 8.0]), np.array([75.0, 50.0]), 75.0), rel=1e-12)
    assert aup.value == pytest.approx(2 * 75.0, rel=1e-12)  # 50 is more than 5 below 75
    assert aup.ci95[0] < aup.value < aup.ci95[1]


# ---------------------------------------------------------------------------------------- learned against fixed bounds

NFE = np.array([8.0, 2.0, 6.0, 4.0])
ACCURACY = np.array([0.7, 0.2, 0.5, 0.6])


@pytest.mark.parametrize(("at", "expected"), [(2.0, 0.2), (3.0, 0.4), (4.0, 0.6), (6.0, 0.65), (99.0, 0.7)])
def test_upper_hull_accuracy(at: float, expected: float) -> None:
    assert frontier.upper_hull_accuracy(NFE, ACCURACY, at) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("at", "expected"), [(0.1, 2.0), (0.2, 2.0), (0.4, 3.0), (0.65, 6.0), (0.7, 8.0)])
def test_upper_hull_nfe(at: float, expected: float) -> None:
    assert frontier.upper_hull_nfe(NFE, ACCURACY, at) == pytest.approx(expected, rel=1e-12)


def test_the_hull_says_what_no_mixture_can_do() -> None:
    assert math.isnan(frontier.upper_hull_accuracy(NFE, ACCURACY, 1.9))
    assert frontier.upper_hull_nfe(NFE, ACCURACY, 0.71) == math.inf


def test_the_hull_bridges_a_dent_that_the_front_keeps() -> None:
    nfe, accuracy = np.array([2.0, 4.0, 8.0]), np.array([0.2, 0.3, 0.8])
    assert frontier.pareto_front(nfe, accuracy).tolist() == [0, 1, 2]
    assert frontier.upper_hull(nfe, accuracy).tolist() == [0, 2]
    assert frontier.upper_hull_accuracy(nfe, accuracy, 5.0) == pytest.approx(0.5, rel=1e-12)
    assert frontier.upper_hull(np.array([2.0, 4.0, 6.0]), np.array([0.25, 0.5, 0.75])).tolist() == [0, 2]


# Half of the problems are easy. The loose rule spends 2 calls and solves those, the tight one 8 and solves all.
IS_EASY = np.arange(200) % 2 == 0
SOLVED = np.stack([IS_EASY, np.ones(200, dtype=bool)], axis=1)
CALLS = np.stack([np.full(200, 2), np.full(200, 8)], axis=1)


def test_gain_of_a_sampler_that_knows_the_easy_ones() -> None:
    calls = np.where(IS_EASY, 2, 8)  # 5 on average; the mixture solves 0.75 at 5, and needs 8 to solve all
    gain = frontier.gain_over_fixed(SOLVED, CALLS, np.ones(200, dtype=bool), calls, np.arange(200))
    assert (gain.accuracy, gain.nfe) == pytest.approx((0.25, 3.0), rel=1e-12)
    # With a share p of easy ones drawn the gain is p (1 - p), which has its maximum at the sample's own 1/2: only a
    # mixture that is fitted again in every resample stays below 0.25.
    assert 0.24 < gain.accuracy_ci95[0] < gain.accuracy_ci95[1] <= 0.25 + 1e-12
    assert gain.nfe_ci95 == pytest.approx((6 * 0.43, 6 * 0.57), rel=0.05)


def test_a_blind_mixture_gains_nothing() -> None:
    is_tight = np.arange(200) // 2 % 2 == 0
    gain = frontier.gain_over_fixed(SOLVED, CALLS, IS_EASY | is_tight, np.where(is_tight, 8, 2), np.arange(200))
    assert (gain.accuracy, gain.nfe) == pytest.approx((0, 0), abs=1e-12)
    assert gain.accuracy_ci95[0] < 0 < gain.accuracy_ci95[1]


def test_outside_the_range_of_the_fixed_rules_the_gain_is_understated_and_finite() -> None:
    fixed, calls = np.ones((50, 1)) * (np.arange(50) % 2)[:, None], np.full((50, 1), 4)
    gain = frontier.gain_over_fixed(fixed, calls, np.ones(50), np.full(50, 3), np.arange(50))
    assert (gain.accuracy, gain.nfe) == pytest.approx((0.5, 1.0), rel=1e-12)
    assert np.isfinite([*gain.accuracy_ci95, *gain.nfe_ci95]).all()


def test_training_runs_are_pooled_and_their_spread_is_counted() -> None:
    problems = np.arange(200)
    one, none = np.ones(200), np.zeros(200)
    calls = np.full((200, 2), 8)
    same = frontier.gain_over_fixed(SOLVED, CALLS, np.stack([one, one], axis=1), calls, problems)
    alone = frontier.gain_over_fixed(SOLVED, CALLS, one, calls[:, 0], problems)
    assert same.accuracy == alone.accuracy == 0
    assert [same.accuracy_ci95, alone.accuracy_ci95] == [(0, 0), (0, 0)]
    apart = frontier.gain_over_fixed(SOLVED, CALLS, np.stack([one, none], axis=1), calls, problems)
    assert apart.accuracy == pytest.approx(-0.5, rel=1e-12)
    assert apart.accuracy_ci95 == pytest.approx((-1, 0), abs=1e-12)
