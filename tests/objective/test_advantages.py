"""Advantages: numbers worked by hand, and what must not change them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffpo.objective.advantages import batch_standardized, group_centered, group_standardized, leave_one_out

# Two prompts, four completions each. Means 1/2 and 1/4.
REWARD = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
CENTERED = torch.tensor([[0.5, -0.5, 0.5, -0.5], [0.75, -0.25, -0.25, -0.25]])
ALL: list[Callable[[Tensor], Tensor]] = [group_centered, group_standardized, batch_standardized, leave_one_out]


def test_group_centered_by_hand() -> None:
    torch.testing.assert_close(group_centered(REWARD), CENTERED)


def test_group_standardized_by_hand() -> None:
    # Squares of the centred rewards: first row 4 x 1/4 = 1, over n - 1 = 3: std = sqrt(1/3);
    # second row 9/16 + 3 x 1/16 = 3/4, over 3: std = 1/2.
    std = torch.tensor([[math.sqrt(1 / 3)], [0.5]])
    torch.testing.assert_close(group_standardized(REWARD, eps=0.0), CENTERED / std)
    torch.testing.assert_close(group_standardized(REWARD, eps=0.5), CENTERED / (std + 0.5))


def test_batch_standardized_by_hand() -> None:
    # All eight centred rewards have mean 0 and squares that sum to 1 + 3/4; over n - 1 = 7: std = 1/2.
    torch.testing.assert_close(batch_standardized(REWARD, eps=0.0), CENTERED / 0.5)
    torch.testing.assert_close(batch_standardized(REWARD, eps=0.5), CENTERED)


def test_leave_one_out_is_the_reward_minus_the_mean_of_the_others() -> None:
    for row, credit in zip(REWARD.tolist(), leave_one_out(REWARD).tolist(), strict=True):
        others = [(sum(row) - reward) / (len(row) - 1) for reward in row]
        assert credit == pytest.approx([reward - other for reward, other in zip(row, others, strict=True)])
    # By hand: the second row's first completion earned 1, the others 0 on average; the last 0 against a mean of 1/3.
    assert leave_one_out(REWARD)[1].tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("advantage", ALL)
def test_a_constant_added_to_a_prompts_rewards_changes_nothing(advantage: Callable[[Tensor], Tensor]) -> None:
    shift = torch.tensor([[2.0], [-3.0]])
    torch.testing.assert_close(advantage(REWARD + shift), advantage(REWARD))


@pytest.mark.parametrize("advantage", ALL)
def test_a_group_that_agrees_earns_nothing(advantage: Callable[[Tensor], Tensor]) -> None:
    assert not advantage(torch.tensor([[0.25] * 4, [1.0] * 4])).any()


@pytest.mark.parametrize("advantage", [group_centered, group_standardized, leave_one_out])
def test_groups_do_not_see_each_other(advantage: Callable[[Tensor], Tensor]) -> None:
    alone = torch.cat([advantage(REWARD[:1]), advantage(REWARD[1:])])
    torch.testing.assert_close(advantage(REWARD), alone)


def test_batch_standardized_keeps_the_relative_size_of_groups() -> None:
    reward = torch.tensor([[1.0, 0.0], [0.1, 0.0]])
    ratio = batch_standardized(reward)[0] / batch_standardized(reward)[1]
    torch.testing.assert_close(ratio, torch.tensor([10.0, 10.0]))
    assert float(group_standardized(reward)[1].abs().max()) == pytest.approx(math.sqrt(0.5), abs=1e-2)
