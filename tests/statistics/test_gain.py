"""Expected numbers are worked by hand from the definitions."""

import math

import numpy as np
import pytest

from diffpo.statistics import frontier
from diffpo.statistics.gain import gain_over_fixed, mixture_accuracy

T199 = 1.97196
"""Student's quantile at 199 degrees of freedom."""
# Half of the problems are easy. The loose rule spends 2 calls and solves those, the tight one 8 and solves all.
IS_EASY = np.arange(200) % 2 == 0
SOLVED = np.stack([IS_EASY, np.ones(200, dtype=bool)], axis=1)
CALLS = np.stack([np.full(200, 2), np.full(200, 8)], axis=1)


def test_gain_of_a_sampler_that_knows_the_easy_ones() -> None:
    calls = np.where(IS_EASY, 2, 8)  # 5 on average; the mixture solves 0.75 at 5, and needs 8 to solve all
    gain = gain_over_fixed(SOLVED, CALLS, np.ones(200, dtype=bool), calls, np.arange(200))
    assert (gain.accuracy, gain.nfe) == pytest.approx((0.25, 3.0), rel=1e-12)
    # With a share p of easy ones the gain is p (1 - p), which has its maximum at the sample's own 1/2: mixtures
    # that are fitted again without each problem move it by nothing, and what is left is half a row of each outcome.
    assert gain.accuracy_ci95 == pytest.approx((0.25 - T199 / 202, 0.25 + T199 / 202), rel=1e-3)
    # No mixture but the tight rule alone solves all: 8 calls, less 5 with their standard error, 3 / sqrt(199).
    half = T199 * 3 / math.sqrt(199)
    assert gain.nfe_ci95[1] == pytest.approx(3 + half, rel=1e-3) and 2 < gain.nfe_ci95[0] < 3


def test_a_blind_mixture_gains_nothing() -> None:
    is_tight = np.arange(200) // 2 % 2 == 0
    gain = gain_over_fixed(SOLVED, CALLS, IS_EASY | is_tight, np.where(is_tight, 8, 2), np.arange(200))
    assert (gain.accuracy, gain.nfe) == pytest.approx((0, 0), abs=1e-12)
    assert gain.accuracy_ci95[0] < 0 < gain.accuracy_ci95[1]


def test_outside_the_range_of_the_fixed_rules_the_gain_is_understated_and_finite() -> None:
    fixed, calls = np.ones((50, 1)) * (np.arange(50) % 2)[:, None], np.full((50, 1), 4)
    gain = gain_over_fixed(fixed, calls, np.ones(50), np.full(50, 3), np.arange(50))
    assert (gain.accuracy, gain.nfe) == pytest.approx((0.5, 1.0), rel=1e-12)
    assert np.isfinite([*gain.accuracy_ci95, *gain.nfe_ci95]).all()


def test_training_runs_are_pooled_and_their_spread_is_counted() -> None:
    problems = np.arange(200)
    one, none = np.ones(200), np.zeros(200)
    calls = np.full((200, 2), 8)
    same = gain_over_fixed(SOLVED, CALLS, np.stack([one, one], axis=1), calls, problems)
    alone = gain_over_fixed(SOLVED, CALLS, one, calls[:, 0], problems)
    assert same.accuracy == alone.accuracy == 0
    assert same.accuracy_ci95 == pytest.approx((-T199 / 402, T199 / 402), rel=1e-4)
    assert alone.accuracy_ci95 == pytest.approx((-T199 / 202, T199 / 202), rel=1e-4)
    apart = gain_over_fixed(SOLVED, CALLS, np.stack([one, none], axis=1), calls, problems)
    assert apart.accuracy == pytest.approx(-0.5, rel=1e-12)
    assert list(apart.accuracy_ci95) == [-1, 1], "two runs that differ so much tell nothing of a third"
    near = np.stack([one, np.arange(200) >= 20], axis=1)
    # Runs of 0 and -0.1: half the difference is their standard error, with one degree of freedom. Problems that fail in
    # one run alone are in that already.
    gain = gain_over_fixed(SOLVED, CALLS, near, calls, problems)
    assert gain.accuracy_ci95 == pytest.approx((-0.05 - 12.7062 * 0.05, -0.05 + 12.7062 * 0.05), rel=0.01)


def test_each_run_is_compared_with_the_mixtures_of_its_own_model() -> None:
    strong, weak = np.array([0.9, 0.9]), np.array([0.5, 0.3])  # each at 4 and at 2 calls
    solved = np.arange(90)[:, None, None] < 90 * np.stack([strong, weak])
    nfe = np.broadcast_to(np.array([4.0, 2.0]), (90, 2, 2))
    learned_solved = np.arange(90)[:, None] < [0.9 * 90, 0.5 * 90]
    gain = gain_over_fixed(solved, nfe, learned_solved, np.full((90, 2), 3.0), np.arange(90))
    assert gain.accuracy == pytest.approx((0.0 + 0.1) / 2), "at three calls the weak one's mixture solves .4"
    assert gain.nfe == pytest.approx(1.0), "the weak one's mixture solves as much with one call more"


@pytest.mark.parametrize("seed", range(5))
def test_the_best_mixture_is_the_point_of_the_hull(seed: int) -> None:
    rng = np.random.default_rng(seed)
    accuracy, nfe = rng.random((40, 7)).round(1), rng.integers(1, 9, size=(40, 7)).astype(float)
    at = np.maximum(rng.uniform(1, 12, size=40), nfe.min(axis=1))
    found = mixture_accuracy(accuracy, nfe, accuracy, at)
    expected = [frontier.upper_hull_accuracy(*row) for row in zip(nfe, accuracy, at, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_mixture_chosen_by_other_problems_is_scored_by_these() -> None:
    nfe, at = np.array([2.0, 4.0, 8.0]), np.array(5.0)
    chosen_by, accuracy = np.array([0.2, 0.3, 0.8]), np.array([0.5, 0.9, 0.6])
    # The chord from 2 to 8 calls was the best, half-way; here it gives the mean of its ends.
    assert mixture_accuracy(accuracy, nfe, chosen_by, at) == pytest.approx((0.5 + 0.6) / 2, rel=1e-12)
