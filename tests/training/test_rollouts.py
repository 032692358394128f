"""What a completion earns: its grade, less the price of its calls."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffpo.objective.advantages import group_centered
from diffpo.training.rollouts import Incentive


def test_the_price_of_a_solved_answer_by_hand() -> None:
    grade = torch.tensor([[1.0, 1.0, 0.5, 0.0], [1.0, 1.0, 0.0, 0.0], [0.25, 1.0, 0.75, 0.5], [1.0, 1.0, 1.0, 1.0]])
    is_solved = torch.tensor([*[[True, True, False, False]] * 3, [True] * 4])
    share = torch.tensor([0.25, 1.0, 0.25, 1.0]).expand(4, -1)
    found = Incentive(0.75, group_centered).reward(grade, is_solved, share)
    expected = [
        [0.8125, 0.5, 0.5, 0.0],  # one call per token costs 0.75, down to what the best unsolved one earns
        [0.8125, 0.25, 0.0, 0.0],
        [0.25, 0.75, 0.75, 0.5],  # a solved answer that earns less than an unsolved one loses nothing
        [0.8125, 0.25, 0.8125, 0.25],
    ]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert torch.equal(Incentive(0.0, group_centered).reward(grade, is_solved, share), grade)


@given(st.floats(0, 1), st.integers(0, 1000))
def test_no_price_makes_a_solved_answer_worth_less_than_an_unsolved_one(penalty: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    credit, share = (torch.rand(3, 5, generator=generator) for _ in range(2))
    is_solved = torch.rand(3, 5, generator=generator) < 0.5
    grade = torch.where(is_solved, 1.0, credit)
    found = Incentive(penalty, group_centered).reward(grade, is_solved, share)
    unsolved = grade.masked_fill(is_solved, -math.inf).amax(dim=1, keepdim=True).expand_as(found)
    assert bool((found >= unsolved)[is_solved].all()) and bool((found <= grade).all())
    assert torch.equal(found[~is_solved], grade[~is_solved])
