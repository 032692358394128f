"""Countdown against a brute force that knows nothing of the reader, the generator or their idea of an answer."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import combinations_with_replacement, permutations, product
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo.core.errors import UserError
from diffpo.tasks.base import Problem, Split, Task
from diffpo.tasks.countdown import Countdown, Numbers, Operators, answers_by_target, parse_prompt, split_of

SPLITS: tuple[Split, ...] = get_args(Split)
TASKS = [
    Countdown(),
    Countdown(max_number=20, operators="+-"),
    Countdown(max_number=99, max_target=10, operators="+-*"),
    Countdown(max_number=99, max_target=100),
]
D1_TEST_SET = Path(__file__).parents[3] / "shared" / "data" / "countdown3_test.jsonl"
PINNED = ["8,4,3= 1:", "8,9,7= 9:"]
PROBLEM = Problem("hand", "3,7,4=25:", "7*3+4", "hand")


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction | None:
    if operator == "/":
        return left / right if right else None
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def every_expression(numbers: tuple[int, ...]) -> Iterator[tuple[str, Fraction]]:
    """All ways to join three numbers in any order by any operators, fully bracketed, with their exact values."""
    for a, b, c in permutations(numbers):
        for first, second in product("+-*/", repeat=2):
            inner = apply(first, Fraction(a), Fraction(b))
            if inner is not None and (value := apply(second, inner, Fraction(c))) is not None:
                yield f"(({a}{first}{b}){second}{c})", value
            inner = apply(second, Fraction(b), Fraction(c))
            if inner is not None and (value := apply(first, Fraction(a), inner)) is not None:
                yield f"({a}{first}({b}{second}{c}))", value


def whole_and_positive(numbers: tuple[int, ...], operators: str = "+-*/") -> set[int]:
    """The values reached by positive whole results alone, as sets: nothing of texts or orders."""
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[int] = set()
    for i, j in permutations(range(len(numbers)), 2):
        rest = tuple(numbers[k] for k in range(len(numbers)) if k not in (i, j))
        for operator in operators:
            value = apply(operator, Fraction(numbers[i]), Fraction(numbers[j]))
            if value is not None and value > 0 and value.denominator == 1:
                found |= whole_and_positive((*rest, int(value)), operators)
    return found


# --- what is drawn


def test_it_is_a_task() -> None:
    assert isinstance(Countdown(), Task)


def test_answers_reach_exactly_what_whole_positive_results_reach() -> None:
    for numbers in combinations_with_replacement(range(1, 8), 3):
        for operators in get_args(Operators):
            assert set(answers_by_target(numbers, operators)) == whole_and_positive(numbers, operators)


def test_every_answer_is_right_by_python() -> None:
    for numbers in combinations_with_replacement(range(1, 8), 3):
        for target, texts in answers_by_target(numbers).items():
            for text in texts:
                assert eval(text) == target  # ours, and exact: every division in them is
                assert sorted(int(mark) for mark in text if mark.isdecimal()) == list(numbers)


def test_answers_do_not_depend_on_the_order_of_the_numbers() -> None:
    assert all(answers_by_target(order) == answers_by_target((2, 3, 8)) for order in permutations((2, 3, 8)))
    assert answers_by_target((2, 3, 8))[26] == ("8*3+2",)


@pytest.mark.parametrize("task", TASKS, ids=range(len(TASKS)))
@pytest.mark.parametrize("split", SPLITS)
def test_problem_fields_and_gold_answers(task: Countdown, split: Split) -> None:
    problems = task.problems(split, 25, seed=1)
    assert len({problem.id for problem in problems}) == 25
    assert len({len(problem.prompt) for problem in problems}) == 1
    for problem in problems:
        asked = parse_prompt(problem.prompt)
        assert asked is not None
        numbers, target = asked
        assert problem.prompt == task.prompt_of(numbers, target)
        assert problem.id == f"{task.name}-{split}-{problem.prompt}"
        assert problem.cluster == f"{','.join(map(str, sorted(numbers)))}={target}"
        assert all(1 <= number <= task.max_number for number in numbers) and 1 <= target <= task.max_target
        assert set(problem.prompt + problem.answer) <= set(task.alphabet)
        assert len(problem.answer) <= task.completion_length
        assert any(value == target for _, value in every_expression(numbers))
        assert set(problem.answer) <= set("0123456789()" + task.operators)
        grade = task.grade(problem, problem.answer)
        assert (grade.reward, grade.status, grade.is_solved) == (1.0, "ok", True)


def test_the_canvas_is_as_long_as_the_longest_answer() -> None:
    for task in (Countdown(), Countdown(max_number=12)):
        found = (answers_by_target(n) for n in combinations_with_replacement(range(1, task.max_number + 1), 3))
        assert max(len(text) for reached in found for texts in reached.values() for text in texts) == (
            task.completion_length
        )


def test_no_problem_is_in_two_splits_in_any_order() -> None:
    everything: Counter[Split] = Counter()
    for numbers in combinations_with_replacement(range(1, 10), 3):
        for target in answers_by_target(numbers):
            splits = {split_of((a, b, c), target) for a, b, c in permutations(numbers)}
            assert len(splits) == 1
            everything.update(splits)
    assert everything["test"] / everything.total() == pytest.approx(26 / 256, abs=0.02)
    assert everything["validation"] / everything.total() == pytest.approx(13 / 256, abs=0.02)
    drawn = [{p.cluster for seed in (0, 1) for p in Countdown().problems(split, 150, seed)} for split in SPLITS]
    assert sum(map(len, drawn)) == len(set().union(*drawn))


def test_same_arguments_same_problems_and_a_smaller_count_is_a_prefix() -> None:
    problems = Countdown().problems("validation", 20, seed=5)
    assert Countdown().problems("validation", 20, seed=5) == problems
    assert Countdown().problems("validation", 7, seed=5) == problems[:7]
    assert Countdown().problems("validation", 20, seed=6) != problems
    assert [p.prompt for p in Countdown().problems("test", 2, seed=0)] == PINNED


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_number": 3}, "max_number is 3; give a number from 4 to 99"),
        ({"max_number": 100}, "max_number is 100"),
        ({"max_target": 9}, "max_target is 9; give a number from 10 to 999"),
        ({"number_credit": -0.1}, "number_credit is -0.1"),
        ({"number_credit": float("nan")}, "number_credit is nan"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Countdown(**fields)  # type: ignore[arg-type]


def test_untyped_mistakes_are_refused_and_torch_is_not_needed() -> None:
    """In a process of its own, where no run-time type checker catches the values first."""
    script = """
import sys
from diffpo.core.errors import UserError
from diffpo.tasks.countdown import Countdown
from diffpo.tasks.walk import Walk
for mistake in (
    lambda: Countdown(operators="*"),
    lambda: Countdown().problems("dev", 1, seed=0),
    lambda: Walk().problems("dev", 1, seed=0),
):
    try:
        mistake()
    except UserError as error:
        print(error)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    known = "unknown split 'dev'; give one of train, validation, test."
    refused = "countdown: operators is '*'; give one of +-, +-*, +-*/."
    assert done.stdout.splitlines() == [refused, f"countdown9: {known}", f"walk2x8: {known}", "False"]


# --- grader


@pytest.mark.parametrize("numbers", [(1, 2, 5), (3, 3, 8), (2, 6, 9)])
def test_grader_agrees_with_brute_force(numbers: Numbers) -> None:
    """Also on what no drawn answer does: 3 / (3 / 8) is 8."""
    task = Countdown(number_credit=0.1)
    for target in (1, 6, 8, 24):
        problem = replace(PROBLEM, prompt=task.prompt_of(numbers, target))
        for text, value in every_expression(numbers):
            grade = task.grade(problem, text)
            assert grade.is_solved == (value == target)
            assert grade.reward == (1.0 if value == target else 0.1)
            assert grade.parts["numbers"] == 1.0


@pytest.mark.parametrize(
    ("text", "solved", "numbers", "status"),
    [
        ("7*3+4", True, True, "ok"),
        ("4 + (3 * 7)", True, True, "ok"),
        ("((4))+3\N{MULTIPLICATION SIGN}7", True, True, "ok"),
        ("7*3-4", False, True, "ok"),
        ("25", False, False, "ok"),
        ("5*5", False, False, "ok"),
        ("7*3+4+0", False, False, "ok"),
        ("7*3+4*1", False, False, "ok"),
        ("7*4-3", True, True, "ok"),
        ("7+7+7+4", False, False, "ok"),
        ("37-4*3", False, False, "ok"),  # two numbers glued
        ("21+4", False, False, "ok"),
        ("7*3+4=25", False, False, "unparseable"),
        ("3.7*4", False, False, "unparseable"),
        ("7**3-4", False, False, "unparseable"),
        ("-3+7*4", False, False, "unparseable"),
        ("7/(3-3)", False, False, "unparseable"),
        ("", False, False, "unparseable"),
    ],
)
def test_by_hand(text: str, solved: bool, numbers: bool, status: str) -> None:
    grade = Countdown(number_credit=0.1).grade(PROBLEM, text)
    assert (grade.is_solved, grade.parts["numbers"], grade.status) == (solved, float(numbers), status)
    assert grade.reward == (1.0 if solved else 0.1 * numbers)
    assert Countdown().grade(PROBLEM, text).reward == float(solved)


def test_a_number_given_twice_is_used_twice() -> None:
    problem = replace(PROBLEM, prompt="4,4,9=17:")
    assert Countdown().grade(problem, "4+4+9").is_solved
    assert Countdown().grade(replace(problem, prompt="4,9,9=17:"), "4+4+9").parts["numbers"] == 0.0


HOSTILE = [
    "99**(98**97)",
    "(" * 100_000,
    "9" * 100_000,
    "1" + "/9" * 100_000,
    "\0",
    "\ud800",
    "\u0663*\u0667+\u0664",
    "<|mdm_mask|>",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_unparseable(text: str) -> None:
    grade = Countdown(number_credit=1.0).grade(PROBLEM, text)
    assert (grade.reward, grade.status) == (0.0, "unparseable")
    assert set(grade.parts.values()) == {0.0}


@given(st.one_of(st.text(max_size=40), st.text("347+-*/() ", max_size=12)))
def test_any_text_earns_nothing_or_is_a_known_solution(completion: str) -> None:
    grade = Countdown().grade(PROBLEM, completion)
    assert grade.reward == float(grade.is_solved)
    if grade.is_solved:
        assert eval(completion) == 25  # read as an expression: digits, operators, brackets and spaces only
        assert sorted(mark for mark in completion if mark.isdecimal()) == ["3", "4", "7"]


BROKEN = [
    "",
    "3,7,4=25",
    "3,7=25:",
    "3,7,4,1=25:",
    "3,7,-4=25:",
    "3,7,4=25:7",
    "a,7,4=25:",
    "\u0663,7,4=25:",
    "3,7,4=" + "1" * 5000 + ":",
]


@pytest.mark.parametrize("prompt", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_problem_is_reported_as_ours(prompt: str) -> None:
    grade = Countdown().grade(replace(PROBLEM, prompt=prompt), "7*3+4")
    assert (grade.reward, grade.status) == (0.0, "grader_failed")


# --- the published test set of d1


def test_d1_problems_are_solvable_and_their_solutions_are_right() -> None:
    if not D1_TEST_SET.exists():
        pytest.skip("the d1 test set (shared/data/countdown3_test.jsonl) is not beside this checkout")
    rows = [json.loads(line) for line in D1_TEST_SET.read_text(encoding="ascii").splitlines()]
    assert len(rows) == 256
    for row in rows:
        first, second, third = map(int, row["input"].split(","))
        target = int(row["output"])
        prompt = Countdown(max_number=99, max_target=100).prompt_of((first, second, third), target)
        problem = Problem(row["input"], prompt, "", "")
        solutions = [text for text, value in every_expression((first, second, third)) if value == target]
        assert solutions
        assert all(Countdown().grade(problem, text).is_solved for text in solutions)
        numbers = (first, second, third)
        assert (target in answers_by_target(numbers)) == (target in whole_and_positive(numbers))


def test_a_zero_divides_nothing() -> None:
    try:
        found = answers_by_target((8, 0, 2))
    except ZeroDivisionError:
        found = {}
    assert found.get(4) == ("(8+0)/2", "(8-0)/2", "8/(2+0)", "8/(2-0)", "8/2+0", "8/2-0")
