"""Countdown with three numbers: write an expression that uses each of them once and is worth the target.

The format is that of the public data sets (three numbers and a target; TinyZero, d1), for models of characters: numbers
are small by default, and a prompt pads them with spaces, so that all prompts of a task have one length.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from typing import Literal, get_args

from diffpo.core.errors import UserError
from diffpo.grading.arithmetic import MAX_DIGITS, Refusal, parse_expression
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.splits import check_split, draw_distinct, split_by_hash

NUMBERS = (4, 99)  # the least and the greatest `max_number`
TARGETS = (10, 999)

Numbers = tuple[int, int, int]
Operators = Literal["+-", "+-*", "+-*/"]

_NUMBER = rf" *([0-9]{{1,{MAX_DIGITS}}})"
_PROMPT = re.compile(f"{_NUMBER},{_NUMBER},{_NUMBER}={_NUMBER}:")


@dataclass(frozen=True)
class _Term:
    """A part of an expression. `operator` is the one that was applied last; a number has none."""

    text: str
    value: int
    operator: str = ""


@lru_cache(maxsize=2**16)
def answers_by_target(numbers: Numbers, operators: Operators = "+-*/") -> dict[int, tuple[str, ...]]:
    """Return the targets that three numbers reach in any order, each with the expressions that are drawn as answers.

    As in the television game, every intermediate result of such an answer is a positive whole number; of two operands
    the greater is written first. The grader accepts all other expressions too.
    """
    found: dict[int, set[str]] = {}
    a, b, c = (_Term(str(number), number) for number in sorted(numbers))
    for pair, third in (((a, b), c), ((a, c), b), ((b, c), a)):
        for term in _combinations(*pair):
            for whole in _combinations(term, third):
                if term.operator in operators and whole.operator in operators:
                    found.setdefault(whole.value, set()).add(whole.text)
    return {target: tuple(sorted(found[target])) for target in sorted(found)}


def _combinations(one: _Term, other: _Term) -> Iterator[_Term]:
    """Yield the two terms combined by every operator that gives a positive whole number."""
    left, right = (one, other) if one.value >= other.value else (other, one)
    yield _Term(f"{left.text}+{right.text}", left.value + right.value, "+")
    if left.value > right.value:
        yield _Term(f"{left.text}-{_bracketed(right, '+-')}", left.value - right.value, "-")
    yield _Term(f"{_bracketed(left, '+-')}*{_bracketed(right, '+-')}", left.value * right.value, "*")
    if right.value and left.value % right.value == 0:
        yield _Term(f"{_bracketed(left, '+-')}/{_bracketed(right, '+-*/')}", left.value // right.value, "/")


def _bracketed(term: _Term, operators: str) -> str:
    """Return the term's text, in parentheses if its last operator is one of `operators`."""
    return f"({term.text})" if term.operator and term.operator in operators else term.text


def split_of(numbers: Numbers, target: int) -> Split:
    """Return the split of a problem, which depends on no seed and not on the order of its numbers."""
    return split_by_hash(_key(numbers, target))


def _key(numbers: Numbers, target: int) -> str:
    return f"{','.join(map(str, sorted(numbers)))}={target}"


def parse_prompt(prompt: str) -> tuple[Numbers, int] | None:
    """Return the numbers and the target of a prompt, whatever their range; None for other texts."""
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        return None
    first, second, third, target = map(int, match.groups())
    return (first, second, third), target


@dataclass(frozen=True)
class Countdown:
    """The task of reaching a target from 1 to `max_target` with three numbers from 1 to `max_number`.

    The prompt is `3,7,4=25:`, numbers and target padded with spaces to the width of the greatest; the completion is an
    expression, usually shorter than the canvas. `operators` are those of the drawn answers: every target can be reached
    with them, and the grader accepts all four. `number_credit` is the reward of an expression that has a value and uses
    each of the numbers once, but is not worth the target. Raises UserError for values out of range.

    Splits go by the SHA-256 of the sorted numbers and the target, so that no problem is in two of them in any order.
    """

    max_number: int = 9
    max_target: int = 99
    operators: Operators = "+-*/"
    number_credit: float = 0.0

    def __post_init__(self) -> None:
        for field, value, (low, high) in (
            ("max_number", self.max_number, NUMBERS),
            ("max_target", self.max_target, TARGETS),
            ("number_credit", self.number_credit, (0, 1)),
        ):
            if not low <= value <= high:
                raise UserError(f"countdown: {field} is {value}; give a number from {low} to {high}.")
        if self.operators not in get_args(Operators):
            raise UserError(
                f"countdown: operators is {self.operators!r}; give one of {', '.join(get_args(Operators))}."
            )

    @property
    def name(self) -> str:
        return f"countdown{self.max_number}"

    @property
    def alphabet(self) -> str:
        return "0123456789+-*/(),=: "

    @property
    def completion_length(self) -> int:
        return longest_answer(self.max_number)

    def prompt_of(self, numbers: Numbers, target: int) -> str:
        """Return the prompt of a problem."""
        width, target_width = len(str(self.max_number)), len(str(self.max_target))
        return f"{','.join(f'{number:>{width}}' for number in numbers)}={target:>{target_width}}:"

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Return `count` problems of a split, distinct while there are enough.

        Numbers are drawn uniformly, then a target among those of `answers_by_target`, then one of its expressions. A
        smaller count gives the beginning of the same list.
        """
        check_split(self.name, split)
        rng = Random(f"{self.name}/{self.max_target}/{split}/{seed}")
        return draw_distinct(lambda: self._draw(split, rng), count)

    def _draw(self, split: Split, rng: Random) -> Problem:
        number = partial(rng.randint, 1, self.max_number)
        while True:
            numbers = (number(), number(), number())
            found = answers_by_target(numbers, self.operators)
            targets = [target for target in found if target <= self.max_target]
            if targets and split_of(numbers, target := rng.choice(targets)) == split:
                break
        prompt = self.prompt_of(numbers, target)
        return Problem(
            id=f"{self.name}-{split}-{prompt}",
            prompt=prompt,
            answer=rng.choice(found[target]),
            cluster=_key(numbers, target),
        )

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Solved means an expression of exactly the given numbers, each used once, that is worth the target: reward 1.

        Any such expression counts, even if it passes through fractions. Parts: `solved`, and `numbers` (each is used
        once), each 0 or 1. Status `unparseable`: `parse_expression` refuses the text, also one that divides by zero or
        ends in "=25"; `grader_failed`: the problem's prompt is not one of this task. Never raises.
        """
        parts = {"solved": 0.0, "numbers": 0.0}
        parsed = parse_prompt(problem.prompt)
        if parsed is None:
            return Grade(0.0, parts, "grader_failed")
        expression = parse_expression(completion)
        if isinstance(expression, Refusal):
            return Grade(0.0, parts, "unparseable")
        numbers, target = parsed
        uses_numbers = sorted(expression.numbers) == sorted(numbers)
        solved = uses_numbers and expression.value == target
        parts = {"solved": float(solved), "numbers": float(uses_numbers)}
        return Grade(1.0 if solved else self.number_credit * uses_numbers, parts)


def longest_answer(max_number: int) -> int:
    """Return the length in characters of the longest drawn answer, `(a+b)*c`: three numbers and four signs."""
    return 3 * len(str(max_number)) + 4
