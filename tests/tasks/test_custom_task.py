"""Tasks of the user's own that do something wrong: one sentence, and no traceback."""

import math
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import pytest

from diffpo.core.errors import UserError
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.custom_task import CheckedTask

GOOD = Problem("one", "1+1=", "2", "2")


@dataclass
class Loose:
    """Whatever is given, unchecked."""

    found: Callable[..., Any] = lambda split, count, seed: [GOOD] * count
    graded: Callable[..., Any] = lambda problem, completion: Grade(1.0, {"solved": 1.0})
    name = "loose"
    alphabet = "12+="
    completion_length = 1

    def problems(self, split: Split, count: int, seed: int) -> Any:
        return self.found(split, count, seed)

    def grade(self, problem: Problem, completion: str) -> Any:
        return self.graded(problem, completion)


def checked(**parts: Any) -> CheckedTask:
    return CheckedTask(Loose(**parts), "my.py:Loose")


def with_field(record: Any, name: str, value: Any) -> Any:
    """The record with a value of another type, which nothing checks outside of tests."""
    made = copy(record)
    object.__setattr__(made, name, value)
    return made


def raises(*_: Any) -> Any:
    raise KeyError("gold\nand a second line")


def test_a_task_that_is_right_is_as_it_was() -> None:
    task = checked()
    assert (task.name, task.alphabet, task.completion_length) == ("loose", "12+=", 1)
    assert task.problems("train", 3, 0) == [GOOD] * 3
    few = checked(found=lambda *_: [GOOD])
    assert few.problems("test", 3, 0) == [GOOD], "what there is to measure with may end"
    wrong: list[tuple[Split, list[Problem]]] = [("train", [GOOD]), ("test", []), ("test", [GOOD] * 4)]
    for split, found in wrong:
        with pytest.raises(UserError, match="return as many as are asked for"):
            checked(found=lambda *_, found=found: found).problems(split, 3, 0)
    assert task.grade(GOOD, "2") == Grade(1.0, {"solved": 1.0})


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (raises, "raises KeyError: 'gold\\nand a second line'; mend it"),
        (lambda *_: None, "gives None; return a list of diffpo.Problem"),
        (lambda *_: ["1+1="] * 2, "gives ['1+1=', '1+1=']; return a list of diffpo.Problem"),
        (lambda *_: (GOOD for _ in range(2)), "gives <generator object"),
        (lambda *_: [GOOD], "gives 1 problems; return as many as are asked for"),
        (lambda *_: [GOOD, with_field(GOOD, "answer", 2)], "gives a problem whose answer is 2; make it a text"),
        (lambda *_: [with_field(GOOD, "prompt", ["x" * 99])] * 2, "gives a problem whose prompt is ['xxx"),
    ],
)
def test_problems_that_are_none_are_told_in_one_sentence(found: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(found=found).problems("train", 2, 7)
    assert str(caught.value).startswith("my.py:Loose: problems('train', 2, 7) ")
    assert told in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_an_error_that_the_task_words_itself_is_passed_on() -> None:
    def found(*_: Any) -> Any:
        raise UserError("no rows; give task.source")

    with pytest.raises(UserError, match=r"^no rows; give task\.source$"):
        checked(found=found).problems("train", 1, 0)


def test_a_grader_that_does_not_return_has_failed_on_that_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpo.tasks.custom_task.GRADE_SECONDS", 0.05)
    grade = checked(graded=lambda *_: time.sleep(60)).grade(GOOD, "2")
    assert (grade.reward, grade.status) == (0.0, "grader_failed")
    assert grade.failure.endswith(f"grade does not return within 0.05 s on problem {GOOD.id!r}, completion '2'")


@pytest.mark.parametrize(
    "graded", [raises, *(lambda *_, x=x: Grade(x, {"solved": 1.0}) for x in (math.nan, -math.inf))]
)
def test_a_grader_that_fails_has_failed_on_that_completion(graded: Any) -> None:
    grade = checked(graded=graded).grade(GOOD, "2")
    assert (grade.reward, grade.status, grade.is_solved) == (0.0, "grader_failed", False)


@pytest.mark.parametrize(
    ("graded", "told"),
    [
        (lambda *_: 1.0, "grade gives 1.0; return diffpo.Grade(reward, parts)"),
        (lambda *_: None, "grade gives None; return"),
        (lambda *_: with_field(Grade(1.0, {}), "parts", None), "grade gives Grade(reward=1.0, parts=None"),
        (lambda *_: with_field(Grade(1.0, {}), "reward", "good"), "grade gives the reward 'good'; make it a number"),
    ],
)
def test_what_is_no_grade_ends_the_run_with_a_sentence(graded: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(graded=graded).grade(GOOD, "2")
    assert str(caught.value).startswith(f"my.py:Loose: {told}")


def test_a_grade_must_say_whether_it_is_solved() -> None:
    """Accuracy and expert iteration go by it: without it a run earns its reward and learns nothing."""
    with pytest.raises(
        UserError, match="grade gives parts without 'solved', by which accuracy and expert iteration go"
    ):
        checked(graded=lambda *_: Grade(1.0, {"right": 1.0})).grade(GOOD, "2")
    assert checked(graded=lambda *_: Grade(0.0, {}, "unparseable")).grade(GOOD, "2").status == "unparseable"
