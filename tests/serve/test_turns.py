"""Whose rows are drawn next."""

from collections import Counter

import pytest

from diffpo.sampling.decoding import Decoding
from diffpo.sampling.rules import EntropyBound
from diffpo.sampling.running import Row
from diffpo.serve.turns import Turns


def add(turns: Turns, name: int, count: int) -> None:
    """Let a request wait whose keys are from a hundred times its name on."""
    turns.add([Row(100 * name + number, (1,), Decoding(EntropyBound(0.0), 4, 4), 0) for number in range(count)])


def taken(turns: Turns) -> list[int]:
    return [row.key for row in turns.take()]


@pytest.mark.parametrize(("num_places", "held"), [(1, 1), (2, 1), (3, 2), (8, 4), (64, 32)])
def test_one_request_holds_half_of_the_places(num_places: int, held: int) -> None:
    turns = Turns(num_places)
    add(turns, 0, 90)
    assert taken(turns) == list(range(held)) and taken(turns) == []


def test_requests_that_come_together_take_turns_and_leave_a_share() -> None:
    turns = Turns(8)
    add(turns, 1, 9)
    add(turns, 2, 9)
    assert taken(turns) == [100, 200, 101, 201, 102, 202], "two are left for the next one"
    assert taken(turns) == []
    turns.leave([100, 200])
    assert taken(turns) == [103, 203]
    turns.leave([201])
    assert taken(turns) == [204], "one that holds its share lets others go first"


def test_who_comes_later_finds_a_place_until_all_are_taken() -> None:
    turns = Turns(8)
    for name in range(5):
        add(turns, name, 20)
        turns.take()
    assert Counter(key // 100 for key in turns._drawn) == {0: 4, 1: 2, 2: 1, 3: 1}
    turns.leave([0])
    assert taken(turns) == [400]


def test_many_small_requests_use_all_places() -> None:
    turns = Turns(8)
    for name in range(9):
        add(turns, name, 1)
    assert taken(turns) == [100 * name for name in range(8)] and turns.waiting() == [800]


def test_who_goes_away_loses_turn_and_places() -> None:
    turns = Turns(4)
    add(turns, 1, 4)
    add(turns, 2, 1)
    turns.forget([100, 102, 103, 200, 7])
    assert turns.waiting() == [101]
    assert taken(turns) == [101]
    turns.leave([101, 7])
    add(turns, 3, 4)
    assert taken(turns) == [300, 301]
    turns.clear_places()
    assert taken(turns) == [302, 303]
