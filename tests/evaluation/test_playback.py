"""Which problems a report replays, and by which rule: neither is chosen by how the answer came out."""

import pytest
from tests.helpers.outcomes import outcome

from diffpo.evaluation.playback import difficulty_of, replayed_rows, standing_outcome
from diffpo.evaluation.validated import Outcomes
from diffpo.tasks.base import Problem


def problems(name: str, *values: int | float | str) -> list[Problem]:
    return [Problem(str(i), "", "", "", {name: value}) for i, value in enumerate(values)]


def test_the_first_problem_of_each_difficulty_is_replayed_in_its_order() -> None:
    assert replayed_rows(problems("clues", 7, 5, 7, 9, 5, 4)) == [5, 1, 0, 3]
    assert replayed_rows(problems("level", 3, 1)) == [1, 0]
    assert replayed_rows(problems("difficulty", "hard", "easy", "easy")) == [1, 0]


def test_of_many_difficulties_a_few_are_replayed_from_end_to_end() -> None:
    found = replayed_rows(problems("clues", *range(12, 25)))
    assert len(found) == 8 and (found[0], found[-1]) == (0, 12) and found == sorted(set(found))


@pytest.mark.parametrize("unordered", [problems("topic", *"abcdefgh"), problems("clues", *[5] * 8)])
def test_problems_that_differ_in_no_difficulty_are_replayed_from_the_first(unordered: list[Problem]) -> None:
    assert replayed_rows(unordered) == [0, 1, 2, 3, 4, 5]
    assert replayed_rows(unordered[:2]) == [0, 1] and replayed_rows([]) == []


def test_a_difficulty_is_told_in_words() -> None:
    told = [difficulty_of(problems(name, 4)[0]) for name in ("clues", "level", "difficulty", "topic")]
    assert told == ["4 clues", "level 4", "difficulty 4", None]


SLOW = outcome("slow", [1] * 300 + [0], [16] * 301)
FAST = outcome("fast", [1] * 299 + [0] * 2, [4] * 301)
FASTER = outcome("faster", [1] * 200 + [0] * 101, [2] * 301)
RISK = outcome("risk", [1] * 280 + [0] * 21, [3] * 301)
VALIDATION = {"best_constants": [{"price": 0.0, "rule": "slow"}, {"price": 0.1, "rule": "faster"}]}
CURVE = {"prices": [{"price": 0.1, "rule": "risk"}, {"price": 1.0, "rule": "faster"}]}


def test_the_rule_that_stands_for_a_model() -> None:
    fixed = [SLOW, FAST, FASTER]
    assert standing_outcome(Outcomes([], fixed, RISK, [FAST]), VALIDATION, CURVE) is RISK, "the learned sampler"
    assert standing_outcome(Outcomes([], fixed, None, [FAST, RISK]), VALIDATION, CURVE) is RISK, "at a price of 0.1"
    assert standing_outcome(Outcomes([], fixed, None), VALIDATION, None) is FASTER, "the validated constant"
    assert standing_outcome(Outcomes([], fixed, None), None, None) is FAST, "the cheapest of the nearly best"
