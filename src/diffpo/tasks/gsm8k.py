"""GSM8K (openai/gsm8k): word problems whose answer is a number. Columns `question` and `answer` (`... #### 18`)."""

import re
from fractions import Fraction

from diffpo.core.errors import UserError
from diffpo.grading.answer import final_answer
from diffpo.grading.number import answer_number, read_number
from diffpo.tasks.base import Grade, Problem
from diffpo.tasks.datasets import Row
from diffpo.tasks.text import Family, Question, is_well_formed, plain_facts, solved_grade, tag_share, worked_answer

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

_CALCULATOR = re.compile(r"<<[^<>]*>>")  # notes for a tool that readers do not have: <<48/2=24>>


def read(row: Row) -> Question:
    text = row.text("question").strip()
    solution = row.value("answer")
    reasoning, _, gold = str(solution).rpartition("####")
    number = read_number(gold)
    if number is None or isinstance(solution, bool):
        raise UserError(
            f"{row.where}: field 'answer' should be a number or end in '#### number', got {str(solution)[-40:]!r}"
        )
    return Question(
        text=text,
        answer=worked_answer(_CALCULATOR.sub("", reasoning), rf"\boxed{{{gold.strip()}}}"),
        key=text,
        cluster=text,
        facts=plain_facts(row) | {"gold": gold.strip()},
    )


def correct(problem: Problem, completion: str) -> Grade:
    """Solved: the final answer is the gold number, exactly. `unparseable`: it gives no number, or several."""
    number, gold = _numbers(problem, completion)
    solved = {"solved": float(number is not None and number == gold)}
    if gold is None:
        return Grade(0.0, solved, "grader_failed")
    return solved_grade(solved) if number is not None else Grade(0.0, solved, "unparseable")


def d1_reward(problem: Problem, completion: str) -> Grade:
    """d1's five rewards, up to 4: correct 2, a number 0.5, well formed 0.5, in order 0.5, tags 0.5.

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
    return None if answer is None else answer_number(answer), read_number(str(problem.facts.get("gold", "")))


GSM8K = Family("gsm8k", INSTRUCTIONS, read, correct, d1_reward, source="openai/gsm8k:main")
