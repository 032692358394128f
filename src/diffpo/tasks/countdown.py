"""Countdown with three numbers: write an expression that uses each of them once and is worth the target.

The format is that of the public data sets (three numbers and a target; TinyZero, d1), for models that read characters:
numbers are small by default, and a prompt pads them with spaces, so that all prompts of a task are of one length.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from typing import Literal, get_args

from diffpo.core.errors import UserError
from diffpo.grading.arithmetic import MAX_DIGITS, Unreadable, read
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
    """An expression in the making. `operator` is the last one applied, none for a number."""

    text: str
    value: int
    operator: str = ""


@lru_cache(maxsize=2**16)
def answers(numbers: Numbers, operators: Operators = "+-*/") -> dict[int, tuple[str, ...]]:
    """The targets that three numbers reach in any order, each with the expressions that are drawn as answers.

    Not all expressions: as in the television game every intermediate result is a positive whole number, and of two
    operands the greater is written first. The grader accepts the others too.
    """
    found: dict[int, set[str]] = {}
    a, b, c = (_Term(str(number), number) for number in sorted(numbers))
    for pair, third in (((a, b), c), ((a, c), b), ((b, c), a)):
        for term in _joined(*pair):
            for whole in _joined(term, third):
                if term.operator in operators and whole.operator in operators:
                    found.setdefault(whole.value, set()).add(whole.text)
    return {target: tuple(sorted(found[target])) for target in sorted(found)}


def _joined(one: _Term, other: _Term) -> Iterator[_Term]:
    left, right = (one, other) if one.value >= other.value else (other, one)
    yield _Term(f"{left.text}+{right.text}", left.value + right.value, "+")
    if left.value > right.value:
        yield _Term(f"{left.text}-{_bracketed(right, '+-')}", left.value - right.value, "-")
    yield _Term(f"{_bracketed(left, '+-')}*{_bracketed(right, '+-')}", left.value * right.value, "*")
    if left.value % right.value == 0:
        yield _Term(f"{_bracketed(left, '+-')}/{_bracketed(right, '+-*/')}", left.value // right.value, "/")


def _bracketed(term: _Term, operators: str) -> str:
    return f"({term.text})" if term.operator and term.operator in operators else term.text


def split_of(numbers: Numbers, target: int) -> Split:
    """The split of a problem, whatever the seed and the order of its numbers."""
    return split_by_hash(_key(numbers, target))


def _key(numbers: Numbers, target: int) -> str:
    return f"{','.join(map(str, sorted(numbers)))}={target}"


def parse_prompt(prompt: str) -> tuple[Numbers, int] | None:
    """The numbers and the target of a prompt, of whatever range; None for other texts."""
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        return None
    first, second, third, target = map(int, match.groups())
    return (first, second, third), target


@dataclass(frozen=True)
class Countdown:
    """Three numbers from 1 to `max_number`, a target from 1 to `max_target` that they reach.

    Prompt: `3,7,4=25:`, numbers and target padded with spaces to the width of the greatest; completion: an expression,
    shorter than the canvas as a rule. `operators`: those that the drawn answers need, and with which every target can
    be reached; the grader takes all four. `number_credit`: the reward of an expression that has a value and uses the
    numbers, each once, without being worth the target. Raises UserError for values out of range.

    Splits are by the SHA-256 of the sorted numbers with the target, so no problem is in two of them in any order.
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
        """The problem as models read it."""
        width, target_width = len(str(self.max_number)), len(str(self.max_target))
        return f"{','.join(f'{number:>{width}}' for number in numbers)}={target:>{target_width}}:"

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """`count` problems of a split, distinct while there are enough. Fewer are the beginning of the same list.

        Numbers are drawn uniformly, then a target among those of `answers`, then one of its expressions.
        """
        check_split(self.name, split)
        rng = Random(f"{self.name}/{self.max_target}/{split}/{seed}")
        return draw_distinct(lambda: self._draw(split, rng), count)

    def _draw(self, split: Split, rng: Random) -> Problem:
        number = partial(rng.randint, 1, self.max_number)
        while True:
            numbers = (number(), number(), number())
            found = answers(numbers, self.operators)
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

        Any such expression counts, also by way of fractions. Parts: `solved` and `numbers` (they are used as asked),
        each 0 or 1. Status `unparseable`: `arithmetic.read` refuses the text, also one that divides by zero or says
        "=25"; `grader_failed`: the problem's prompt is none. Never raises.
        """
        parts = {"solved": 0.0, "numbers": 0.0}
        asked = parse_prompt(problem.prompt)
        if asked is None:
            return Grade(0.0, parts, "grader_failed")
        reading = read(completion)
        if isinstance(reading, Unreadable):
            return Grade(0.0, parts, "unparseable")
        numbers, target = asked
        uses_numbers = sorted(reading.numbers) == sorted(numbers)
        solved = uses_numbers and reading.value == target
        parts = {"solved": float(solved), "numbers": float(uses_numbers)}
        return Grade(1.0 if solved else self.number_credit * uses_numbers, parts)


def longest_answer(max_number: int) -> int:
    """Characters of the longest drawn answer, `(a+b)*c`: three numbers, two operators, two parentheses."""
    return 3 * len(str(max_number)) + 4
