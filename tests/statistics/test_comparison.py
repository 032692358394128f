"""Two families of frontiers, compared problem by problem and run by run."""

import numpy as np
import pytest

from diffpo.core.errors import UserError
from diffpo.statistics.comparison import Frontiers, compare_frontiers, compare_mixtures

ROWS = np.arange(200)


def family(*runs: tuple[tuple[float, float], ...]) -> Frontiers:
    """Each run has its rules as (accuracy, calls); what an accurate rule solves includes what another does."""
    solved = np.stack([np.stack([200 * a > ROWS for a, _ in rules], axis=1) for rules in runs], axis=1)
    nfe = np.stack([np.tile([calls for _, calls in rules], (200, 1)) for rules in runs], axis=1)
    return Frontiers(solved.astype(float), nfe.astype(float))


def test_each_run_brings_its_best_rule_within_the_calls() -> None:
    ours = family(((0.5, 1), (0.8, 4)), ((0.6, 2), (0.9, 4)))
    theirs = family(((0.4, 1), (0.7, 4), (0.6, 8)), ((0.4, 1), (0.7, 4), (0.8, 8)))
    found = compare_frontiers(ours, theirs, ROWS, 16, at=(1, 2, 3.9, 4, 8))
    expected = [(0.1 - 0.4) / 2, (0.1 + 0.2) / 2, (0.1 + 0.2) / 2, (0.1 + 0.2) / 2, (0.1 + 0.1) / 2]
    assert list(found.at) == [1, 2, 3.9, 4, 8]
    assert [estimate.value for estimate in found.accuracy] == pytest.approx(expected)
    # Doublings from 1 to 16, of which run 0 is ahead by .1 in all four; run 1 is -.4, .2, .2, .1.
    assert found.area.value == pytest.approx((0.1 + (-0.4 + 0.2 + 0.2 + 0.1) / 4) / 2)
    assert all(e.ci95[0] <= e.value <= e.ci95[1] for e in (*found.accuracy, found.area))


def test_mixtures_take_the_same_calls() -> None:
    ours = family(((0.5, 1), (0.8, 4)), ((0.6, 2), (0.9, 4)))
    theirs = family(((0.4, 1), (0.7, 4), (0.6, 8)), ((0.4, 1), (0.7, 4), (0.8, 8)))
    found = compare_mixtures(ours, theirs, ROWS, at=(1, 2, 3, 4, 6))
    # One call: .1, and -.4 where the cheapest takes two. Two: .6 - .5, and .6 - .5. Three: .7 - .6, and .75 - .6.
    # Six calls: .8 - .7, where eight bring less, and .9 - .75.
    expected = [(0.1 - 0.4) / 2, 0.1, (0.1 + 0.15) / 2, (0.1 + 0.2) / 2, (0.1 + 0.15) / 2]
    assert [estimate.value for estimate in found] == pytest.approx(expected)
    assert all(e.ci95[0] <= e.value <= e.ci95[1] for e in found)


def test_calls_are_counted_up_to_the_completion_length_by_default() -> None:
    found = compare_frontiers(family(((0.5, 1),)), family(((0.4, 1),)), ROWS, 5)
    assert list(found.at) == [1, 2, 3, 4, 5]
    assert [estimate.value for estimate in found.accuracy] == pytest.approx([0.1] * 5)


def test_the_difference_is_paired_by_problem_and_by_run() -> None:
    strong, weak = ((0.9, 2),), ((0.5, 2),)
    runs = (strong, weak, strong)
    found = compare_frontiers(family(*runs), family(*runs), ROWS, 16, at=(2,))
    low, high = found.accuracy[0].ci95
    assert found.accuracy[0].value == 0 and -0.01 < low < 0 < high < 0.01, "no problem and no run tells them apart"
    shuffled = compare_frontiers(family(*runs), family(weak, strong, strong), ROWS, 16, at=(2,))
    low, high = shuffled.accuracy[0].ci95
    assert shuffled.accuracy[0].value == pytest.approx(0) and low < -0.5 and high > 0.5


def test_other_problems_or_runs_cannot_be_compared() -> None:
    two = family(((0.5, 1),), ((0.5, 1),))
    with pytest.raises(UserError, match="200 problems and 2 runs cannot be compared with those of 200 and 1"):
        compare_frontiers(two, family(((0.5, 1),)), ROWS, 16)
    with pytest.raises(UserError, match="over 199 cluster names: evaluate both on the same problems"):
        compare_frontiers(two, two, ROWS[1:], 16)
