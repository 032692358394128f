"""What a completion earns: its grade, less the price of its calls."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.oracle import rollout_of

from diffpo.core.errors import UserError
from diffpo.objective.advantages import group_centered
from diffpo.objective.rewards import standardized_apart
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe
from diffpo.training.rollouts import Incentive, answer_tokens_per_call


def test_the_price_of_a_solved_answer_by_hand() -> None:
    grade = torch.tensor([[1.0, 1.0, 0.5, 0.0], [1.0, 1.0, 0.0, 0.0], [0.25, 1.0, 0.75, 0.5], [1.0, 1.0, 1.0, 1.0]])
    is_solved = torch.tensor([*[[True, True, False, False]] * 3, [True] * 4])
    share = torch.tensor([0.25, 1.0, 0.25, 1.0]).expand(4, -1)
    found = Incentive(0.75, group_centered).reward(grade, is_solved, share, 1 / share)
    expected = [
        [0.8125, 0.5, 0.5, 0.0],  # one call per token costs 0.75, down to what the best unsolved one earns
        [0.8125, 0.25, 0.0, 0.0],
        [0.25, 0.75, 0.75, 0.5],  # a solved answer that earns less than an unsolved one loses nothing
        [0.8125, 0.25, 0.8125, 0.25],
    ]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert torch.equal(Incentive(0.0, group_centered).reward(grade, is_solved, share, 1 / share), grade)


@given(st.floats(0, 1), st.integers(0, 1000))
def test_no_price_makes_a_solved_answer_worth_less_than_an_unsolved_one(penalty: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    credit, share = (torch.rand(3, 5, generator=generator) for _ in range(2))
    is_solved = torch.rand(3, 5, generator=generator) < 0.5
    grade = torch.where(is_solved, 1.0, credit)
    found = Incentive(penalty, group_centered).reward(grade, is_solved, share, 1 / share)
    unsolved = grade.masked_fill(is_solved, -math.inf).amax(dim=1, keepdim=True).expand_as(found)
    assert bool((found >= unsolved)[is_solved].all()) and bool((found <= grade).all())
    assert torch.equal(found[~is_solved], grade[~is_solved])


def test_speed_and_grade_standardised_apart_by_hand() -> None:
    """LightningRL. Not gated: a wrong answer that is quick gains, too; what all completions share adds nothing."""
    grade = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    # Answers of 6, 6, 6, 12 tokens in 3, 1, 6, 12 calls: 2, 6, 1, 1 tokens a call; then one speed for all.
    speed = torch.tensor([[2.0, 6.0, 1.0, 1.0], [1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0], [0.1, 0.1, 0.1, 0.1]])
    found = Incentive(0.0, group_centered, speed_coef=0.5).reward(grade, grade == 1, 1 / speed, speed)
    root3, wide = math.sqrt(3), math.sqrt((0.25 + 12.25 + 2 * 2.25) / 4)
    expected = [
        [1 - 0.25 / wide, 1 + 1.75 / wide, -1 - 0.75 / wide, -1 - 0.75 / wide],
        [-0.5, -0.5, 0.5, 0.5],
        [-1 / root3, -1 / root3, -1 / root3, root3],
        [0.0] * 4,
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_values_that_differ_by_rounding_are_equal() -> None:
    third = torch.tensor([[1 / 3, 1 / 3 + 1e-7, 1 - 2 / 3]])
    assert torch.equal(standardized_apart(torch.ones(1, 3), third, 1.0), torch.zeros(1, 3))


def test_two_rewards_of_speed_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"nfe_penalty 0.3 and speed_coef 1 are two rewards of speed; set nfe_penalty = 0"
    ):
        load_recipe(RlRecipe, "tiny-lightningrl", ["objective.nfe_penalty=0.3"])


def test_tokens_per_call_are_those_of_the_answer() -> None:
    ids = torch.zeros(2, 6, dtype=torch.long)
    rollout = rollout_of(torch.full((2, 1), 3), ids, torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 3, 3]]))
    is_answer = torch.tensor([[True] * 6, [True, True, False, False, False, False]])
    found = answer_tokens_per_call(replace(rollout, is_answer=is_answer), group_size=2)
    torch.testing.assert_close(found, torch.tensor([[3.0, 0.5]]))
