"""Figures that rest on a choice: the noise must not choose for itself."""

import numpy as np
import pytest
from jaxtyping import Float

from diffpo.statistics import choice


def best(
    accuracy: Float[np.ndarray, "*b k"], nfe: Float[np.ndarray, "*b k"], chosen_by: Float[np.ndarray, "*b k"]
) -> Float[np.ndarray, "*b"]:
    chosen: Float[np.ndarray, "*b"] = np.take_along_axis(accuracy, chosen_by.argmax(axis=-1)[..., None], axis=-1)[
        ..., 0
    ]
    return chosen


def coins(rules: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rules that are all equally good: 100 problems, each solved with probability 1/2."""
    solved = (np.random.default_rng(seed).random((100, rules)) < 0.5).astype(float)
    return solved, np.ones((100, rules))


def test_folds_are_scored_by_the_choice_of_the_others() -> None:
    values = np.random.default_rng(0).random((30, 2, 3))
    names = np.random.default_rng(1).integers(7, size=30)
    _, scored, weights = choice.folds(values, names)
    assert len(weights) == choice.FOLDS * choice.SPLITS and weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.einsum("f,fsk->sk", weights, scored), values.mean(axis=0), rtol=1e-12)
    # A mean over rows of one cluster is above 0 where that cluster takes part: on one side of each fold, never on both.
    is_of = (names[:, None] == np.arange(7))[:, None].astype(float)
    chosen, scored, _ = choice.folds(is_of, names)
    assert ((chosen > 0) ^ (scored > 0)).all() and (scored > 0).any(axis=0).all()


@pytest.mark.parametrize("clusters", [2, 3])
def test_fewer_clusters_than_folds(clusters: int) -> None:
    names = np.arange(12) % clusters
    chosen, scored, weights = choice.folds(np.ones((12, 1, 1)), names)
    assert (chosen == 1).all() and (scored == 1).all() and weights.sum() == pytest.approx(1)


def test_the_best_of_equal_rules_is_not_better_than_they_are() -> None:
    found = [choice.measure(best, *coins(10, seed), np.arange(100)) for seed in range(200)]
    assert np.mean([one.value for one in found]) > 0.56, "the sample's best is too high"
    assert np.mean([one.span[0] for one in found]) == pytest.approx(0.5, abs=0.01)
    assert sum(one.span[1] == one.value for one in found) > 190, "the honest one is below, but for noise"


def test_without_a_choice_the_honest_figure_is_the_sample_s() -> None:
    found = choice.measure(best, *coins(1, 0), np.arange(100))
    assert found.span == pytest.approx((found.value, found.value), rel=1e-12)
    alone = choice.measure(best, *coins(5, 0), np.zeros(100, dtype=int))
    assert alone.span == (alone.value, alone.value) and alone.interval() == (-np.inf, np.inf)
    assert alone.interval_of_share(100) == (0, 1)


def test_a_difference_is_paired_by_problem_and_by_run() -> None:
    solved = np.stack([coins(4, seed)[0] for seed in range(3)], axis=1)
    one = choice.measure(best, solved, np.ones_like(solved), np.arange(100))
    shifted = choice.measure(lambda *tables: best(*tables) + 1, solved, np.ones_like(solved), np.arange(100))
    difference = shifted - one
    assert (difference.value, difference.half_width) == pytest.approx((1, 0), abs=1e-12)
    assert one.half_width > 0.05
    alone = choice.measure(best, *coins(4, 0), np.arange(100))
    assert (alone - alone).half_width == 0 < alone.half_width
    # Where the truth of each lies in its span is not known of both, so both lengths count.
    length = one.span[1] - one.span[0]
    assert length > 0.01 and difference.span == pytest.approx((1 - length, 1 + length))


def test_an_interval_holds_all_of_a_long_span_with_one_sided_errors_only() -> None:
    assert choice.reach(1.96, (3.0, 3.0)) == pytest.approx(1.96, rel=1e-6)
    assert choice.reach(1.96, (3.0, 99.0)) == pytest.approx(1.64485, rel=1e-4)
    # One standard deviation long: P(-c <= Z <= c + 1) = 0.95 at 1.7 or so, whichever end the truth is at.
    c = choice.reach(1.959964, (3.0, 4.0))
    assert choice.NORMAL.cdf(c + 1) - choice.NORMAL.cdf(-c) == pytest.approx(0.95, abs=1e-6)
    found = choice.Measured(np.array([0.9]), np.zeros((5, 1)), (0.8, 0.9))
    assert found.interval() == (0.8, 0.9)


def test_rules_that_solve_everything_may_still_fail() -> None:
    all_solved = choice.measure(best, np.ones((50, 3)), np.ones((50, 3)), np.arange(50))
    low, high = all_solved.interval_of_share(50)
    assert 0.9 < low < 0.95 and high == 1


def test_splits_differ() -> None:
    """Twelve rows with weights that tell them apart: no fold of one split is a fold of another."""
    _, scored, _ = choice.folds(2.0 ** np.arange(12)[:, None, None], np.arange(12))
    assert len(np.unique(scored.round(6))) > 0.9 * len(scored)
