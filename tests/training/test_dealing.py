"""Groups and rows dealt to processes: each once, even for any costs, and stable."""

import pytest
import torch

from diffpo.training.dealing import dealt_by_canvas, dealt_evenly, idle_share


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


def test_rows_of_one_canvas_stay_together_and_count_once() -> None:
    """The canvas of four rows costs 2, as one of the others; the third costs 3."""
    canvas = torch.tensor([[1, 7], [2, 7], [1, 7], [3, 7], [1, 7], [1, 7]])
    owner = dealt_by_canvas(canvas, torch.tensor([2.0, 3, 2, 2, 2, 2]), 2)
    assert owner.tolist() == [1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_dearest_canvas_is_dealt_first(size: int) -> None:
    cost = torch.tensor([1.0, 8, 2, 7, 3, 6, 4, 5])
    owner = dealt_by_canvas(torch.arange(8)[:, None], cost, size)
    load = torch.zeros(size).scatter_add(0, owner, cost)
    assert load.tolist() == [36 / size] * size


def test_processes_wait_for_each_other_at_each_deal() -> None:
    """Each of two computes 6 tokens, and each waits while the other computes 2 more."""
    assert idle_share([[4, 2], [2, 4]]) == pytest.approx(0.25)
    assert idle_share([[6], [6]]) == 0
    assert idle_share([[0], [0]]) == 0, "nothing was drawn"
