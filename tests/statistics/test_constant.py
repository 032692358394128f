"""Constants chosen on other problems, and gains over them, against arithmetic by hand."""

import numpy as np
import pytest

from diffpo.statistics.constant import best_constant, constant_within, gain_over_constant, verdict
from diffpo.statistics.intervals import Interval, difference_interval
from diffpo.statistics.student import student_quantile

ACCURACY = np.array([0.90, 0.90, 0.80, 0.55, 0.50])
NFE = np.array([16.0, 8.0, 4.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (0.0, 1),  # of two that solve as much, the cheaper
        (0.3, 1),  # .90 - .15 = .75 against .80 - .075 = .725 and .55 - .01875
        (0.5, 2),  # .65 against .675 and .51875
        (1.5, 3),  # .15, .425, .45625
    ],
)
def test_the_best_constant_at_a_price(price: float, expected: int) -> None:
    assert best_constant(ACCURACY, NFE, 16, price) == expected


@pytest.mark.parametrize(("calls", "expected"), [(16.0, 1), (8.0, 1), (7.9, 2), (4.0, 2), (3.9, 3), (1.0, 3), (0.5, 3)])
def test_the_best_constant_within_a_number_of_calls(calls: float, expected: int) -> None:
    assert constant_within(ACCURACY, NFE, calls) == expected


def rows(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.random(shape) < 0.7).astype(float), rng.integers(1, 9, size=shape).astype(float)


CLUSTERS = [str(i // 3) for i in range(90)]


def test_the_gain_over_a_constant_is_paired() -> None:
    solved, nfe = rows(0, (90,))
    learned_solved, learned_nfe = np.minimum(solved + rows(1, (90,))[0] * 0.1, 1.0), nfe - 0.5
    gain = gain_over_constant(solved, nfe, learned_solved, learned_nfe, CLUSTERS)
    assert gain.accuracy == pytest.approx((learned_solved - solved).mean())
    assert (gain.nfe, *gain.nfe_ci95) == pytest.approx((0.5, 0.5, 0.5)), "saved calls are positive"
    assert gain.accuracy_ci95 == difference_interval(learned_solved - solved, CLUSTERS)
    assert gain.accuracy_ci95[1] - gain.accuracy_ci95[0] < 0.07, "what both solve does not widen it"


def test_runs_have_constants_of_their_own_and_widen_the_interval() -> None:
    solved, nfe = rows(0, (90, 3))
    shift = np.array([-0.2, 0.0, 0.5])
    one, three = (
        gain_over_constant(solved, nfe, solved + shifts, nfe - 2 * shifts, CLUSTERS)
        for shifts in (np.full(3, shift.mean()), shift)
    )
    assert one.accuracy == pytest.approx(0.1) and three.accuracy == pytest.approx(0.1)
    t = student_quantile(29.0)
    assert one.accuracy_ci95 == pytest.approx((0.1 - t / 272, 0.1 + t / 272)), "no run differs from another"
    # Runs of -0.2, 0 and 0.5 have a variance of 0.13, of which two degrees of freedom know.
    half = 4.30265 * (0.13 / 3) ** 0.5
    assert three.accuracy_ci95 == pytest.approx((0.1 - half, 0.1 + half), rel=1e-3)
    assert three.nfe_ci95 == pytest.approx((0.2 - 2 * half, 0.2 + 2 * half), rel=1e-5)


UP, DOWN, AROUND = (0.01, 0.05), (-0.05, -0.01), (-0.02, 0.03)


@pytest.mark.parametrize(
    ("mixture", "constant", "expected"),
    [
        (UP, UP, "ahead"),
        (UP, AROUND, "undecided"),
        (AROUND, UP, "undecided"),
        (UP, DOWN, "behind"),
        (DOWN, UP, "behind"),
        (UP, None, "unknown"),
        (DOWN, None, "behind"),
        (None, None, "unknown"),
    ],
)
def test_ahead_takes_both_comparisons(mixture: Interval | None, constant: Interval | None, expected: str) -> None:
    assert verdict(mixture, constant) == expected
