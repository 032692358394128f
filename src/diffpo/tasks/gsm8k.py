"""GSM8K (openai/gsm8k): word problems whose answer is a number. Columns `question` and `answer` (`... #### 18`)."""

import re
from fractions import Fraction

from diffpo.core.errors import UserError
from diffpo.grading.answer import final_answer
from diffpo.grading.number import parse_answer_number, parse_number
from diffpo.tasks.base import Grade, Problem
from diffpo.tasks.datasets import Row
from diffpo.tasks.text import (
    Question,
    TaskFamily,
    format_answer,
    is_well_formed,
    scalar_columns,
    solved_grade,
    tag_share,
)

INSTRUCTIONS = r"""
Solve the following problem step by step. Write your steps between <reasoning> and </reasoning>, then only the number
that answers the question in \boxed{} between <answer> and </answer>, like this:
<reasoning>
first step, second step, ...
</reasoning>
<answer>
\boxed{42}
</answer>
"""

_CALCULATOR = re.compile(r"<<[^<>]*>>")  # notes for a calculator that the model does not have: <<48/2=24>>


def parse_row(row: Row) -> Question:
    """Parse a row. Raises UserError where its answer is not a number and does not end in one."""
    text = row.text("question").strip()
    solution = row.value("answer")
    reasoning, _, gold = str(solution).rpartition("####")
    number = parse_number(gold)
    if number is None or isinstance(solution, bool):
        raise UserError(
            f"{row.location}: field 'answer' should be a number or end in '#### number', got {str(solution)[-40:]!r}"
        )
    return Question(
        text=text,
        answer=format_answer(_CALCULATOR.sub("", reasoning), rf"\boxed{{{gold.strip()}}}"),
        key=text,
        cluster=text,
        facts=scalar_columns(row) | {"gold": gold.strip()},
    )


def grade(problem: Problem, completion: str) -> Grade:
    """Solved: the final answer is the gold number, exactly. `unparseable`: it gives no number, or several."""
    number, gold = _numbers(problem, completion)
    solved = {"solved": float(number is not None and number == gold)}
    if gold is None:
        return Grade(0.0, solved, "grader_failed")
    return solved_grade(solved) if number is not None else Grade(0.0, solved, "unparseable")


def grade_d1(problem: Problem, completion: str) -> Grade:
    """Add up d1's five rewards, at most 4: correct 2, a number 0.5, well formed 0.5, in order 0.5, tags 0.5.

    d1's own never sum to 4, because two of them exclude each other, pay for superscripts, and punish long reasoning.
    """
    number, gold = _numbers(problem, completion)
    if gold is None:
        return Grade(0.0, {"solved": 0.0}, "grader_failed")
    tags, solved = tag_share(completion), float(number == gold)
    parts = {
        "solved": solved,
        "correct": 2.0 * solved,
        "number": 0.5 * (number is not None),
        "strict_format": 0.5 * is_well_formed(completion),
        "soft_format": 0.5 * (tags == 1.0),
        "tags": 0.5 * tags,
    }
    return Grade(sum(parts.values()) - solved, parts, "ok" if number is not None else "unparseable")


def _numbers(problem: Problem, completion: str) -> tuple[Fraction | None, Fraction | None]:
    answer = final_answer(completion)
    return None if answer is None else parse_answer_number(answer), parse_number(str(problem.facts.get("gold", "")))


GSM8K = TaskFamily("gsm8k", INSTRUCTIONS, parse_row, grade, grade_d1, source="openai/gsm8k:main")
