"""Expected numbers are worked by hand from the definitions."""

import math
from functools import partial

import numpy as np
import pytest

from diffpo.statistics import frontier
from diffpo.statistics.choice import measure


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
    aup = frontier.aup_estimate(solved, nfe, list("abcd"), tokens=16)
    assert aup.value == pytest.approx(frontier.aup(np.array([2.0, 8.0]), np.array([75.0, 50.0]), 75.0), rel=1e-12)
    assert aup.value == pytest.approx(2 * 75.0, rel=1e-12)  # 50 is more than 5 below 75
    assert aup.ci95[0] < aup.value < aup.ci95[1]


def test_the_interval_of_an_area_counts_accuracy_and_calls_together() -> None:
    """One rule: area = p (1 - log x / log 16), of which each row moves p and the mean of x, and both together."""
    rng = np.random.default_rng(0)
    solved = (rng.random(400) < 0.6).astype(float)
    nfe = 2 + 4 * rng.random(400) - solved
    p, x = solved.mean(), nfe.mean()
    per_row = (solved - p) * (1 - math.log(x) / math.log(16)) - p * (nfe - x) / x / math.log(16)
    found = measure(partial(frontier.staircase_area, hi=16), solved[:, None], nfe[:, None], np.arange(400))
    assert found.half_width == pytest.approx(1.966 * math.sqrt(per_row @ per_row / 399 / 400), rel=0.005)
    estimate = frontier.frontier_area_estimate(solved[:, None], nfe[:, None], np.arange(400), 16)
    assert (estimate.ci95[1] - estimate.ci95[0]) / 2 == pytest.approx(found.half_width, rel=0.02)


def test_a_better_rival_lowers_aup() -> None:
    solved, nfe = (np.arange(200)[:, None] % 10 < [6, 6]).astype(float), np.ones((200, 2)) * [8, 4]
    alone = frontier.aup_estimate(solved, nfe, np.arange(200), tokens=16)
    assert alone.value == pytest.approx(2 * 60 + 2 * 60, rel=1e-12)
    beaten = frontier.aup_estimate(solved, nfe, np.arange(200), 16, (np.arange(200)[:, None] % 10 < 8).astype(float))
    assert beaten.value == pytest.approx(frontier.aup(np.array([2.0, 4.0]), np.full(2, 60.0), 80.0), rel=1e-12)
    assert beaten.ci95[1] < alone.ci95[1]


def test_aup_is_wide_where_a_point_may_or_may_not_be_kept() -> None:
    """A point of 4 points per forward is kept at 60 %, dropped at 59, and it is worth a fifth of the whole."""
    rows = np.arange(400)
    calls = np.ones((400, 2)) * [8, 4]
    for fast, is_in_doubt in ((0.65, False), (0.60, True), (0.59, True), (0.40, False)):
        solved = np.stack([rows < 0.65 * 400, (rows < fast * 400)], axis=1).astype(float)
        # Other problems fail in the end: 40 are solved by one of the two alone.
        solved[:20], solved[-20:] = [1, 0], [0, 1]
        found = frontier.aup_estimate(solved, calls, rows, tokens=16)
        both = [
            frontier.aup(np.array(rho), np.array(y), 65.0) for rho, y in (([2.0], [65.0]), ([2.0, 4.0], [65.0, 60.0]))
        ]
        holds = [found.ci95[0] < value < found.ci95[1] for value in both]
        assert all(holds) == is_in_doubt, fast
        assert found.ci95[0] < found.value < found.ci95[1]


def test_the_step_at_a_number_of_calls_is_the_best_rule_within_it() -> None:
    accuracy, nfe = np.array([0.7, 0.2, 0.6, 0.5]), np.array([8.0, 2.0, 4.0, 6.0])
    for calls, expected in ((1.9, 0.0), (2.0, 0.2), (5.0, 0.6), (7.0, 0.6), (8.0, 0.7), (99.0, 0.7)):
        assert frontier.staircase_accuracy(accuracy, nfe, accuracy, calls) == pytest.approx(expected)
    # Chosen by another measurement of the same rules: the third looks worse there than the second.
    other = np.array([0.9, 0.5, 0.4, 0.6])
    assert frontier.staircase_accuracy(accuracy, nfe, other, 5.0) == pytest.approx(0.2)
    assert frontier.staircase_accuracy(accuracy, nfe, other, 7.0) == pytest.approx(0.5)


def test_many_frontiers_at_once_are_each_what_it_is_alone() -> None:
    rng = np.random.default_rng(0)
    accuracy, nfe = rng.random((50, 6)).round(1), rng.integers(1, 20, size=(50, 6)).astype(float)
    areas = frontier.staircase_area(accuracy, nfe, accuracy, 16)
    for a, calls, area in zip(accuracy, nfe, areas, strict=True):
        front = frontier.pareto_front(calls, a)
        steps = np.log(np.append(np.clip(calls[front], 1, 16), 16))
        assert area == pytest.approx(np.diff(steps) @ a[front] / math.log(16), rel=1e-12)


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
