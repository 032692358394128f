"""Groups dealt to processes: a permutation, even for any costs, and stable."""

import pytest
import torch

from diffpo.training.dealing import dealt_evenly


@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_group_is_dealt_once_and_each_process_gets_as_many_dear_ones(size: int) -> None:
    cost = torch.tensor([5.0, 1, 8, 2, 7, 3, 6, 4])
    order = dealt_evenly(cost, size)
    assert sorted(order.tolist()) == list(range(8))
    shares = cost[order].view(size, -1).sum(dim=1)
    assert shares.tolist() == [36 / size] * size


def test_costs_that_are_unlike_are_spread_by_their_ranks() -> None:
    cost = torch.tensor([100.0, 90, 80, 70, 1, 2, 3, 4])
    assert dealt_evenly(cost, 2).view(2, -1).tolist() == [[0, 3, 7, 4], [1, 2, 6, 5]]


def test_equal_costs_keep_the_order_of_turns() -> None:
    assert dealt_evenly(torch.zeros(4), 2).tolist() == [0, 3, 1, 2]
