"""Countdown with three numbers, put in words: d1's and DMPO's test set, and TinyZero's train set.

Columns `nums` and `target` (Jiayi-Pan/Countdown-Tasks-3to4, of which only rows with three numbers are for this task),
or `input` ("30,100,93") and `output` ("23"), as in d1's `countdown_cd3_test.jsonl`.
"""

import re

from diffpo.core.errors import UserError
from diffpo.grading.answer import final_answer
from diffpo.grading.arithmetic import Expression, parse_expression
from diffpo.tasks.base import Grade, Problem
from diffpo.tasks.countdown import answers_by_target
from diffpo.tasks.datasets import Row
from diffpo.tasks.text import Question, TaskFamily, format_answer, solved_grade

INSTRUCTIONS = r"""
Make an arithmetic expression that is worth exactly the target. Use each of the given numbers exactly once, and no other
number. The operations are +, -, * and /, with parentheses where needed. Write your steps between <reasoning> and
</reasoning>, then only the expression, without an equals sign, in \boxed{} between <answer> and </answer>. For the
numbers [2, 3, 4] and the target 5, that is:
<reasoning>
first attempt, second attempt, ...
</reasoning>
<answer>
\boxed{2 * 4 - 3}
</answer>
"""

D1_FORMAT_REWARD = 0.1

_LATEX = (
    (re.compile(r"\\(?:left|right)(?![a-z])|\\[,;: ]|\$|\\[()\[\]]|`|^\s*\*\*|\*\*\s*$"), " "),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-z])|\\\*|[\u00b7\u22c5\u2217]|(?<=[0-9)\s])[xX](?=[0-9(\s])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\[dt]?frac *\{([^{}]{1,80})\} *\{([^{}]{1,80})\}"), r"(\1)/(\2)"),
    (re.compile(r"[{\[]"), "("),
    (re.compile(r"[}\]]"), ")"),
    (re.compile(r"\s+"), " "),
)
_LONGEST = 1000  # characters of an answer as it is written; `parse_expression` takes fewer still


def parse_row(row: Row) -> Question | None:
    """Parse a row; None if it has more or fewer than three numbers. Raises UserError where a column is malformed."""
    if row.has("nums"):
        found = row.value("nums")
        if not (isinstance(found, list) and found and all(type(number) is int and number >= 0 for number in found)):
            raise UserError(
                f"{row.location}: field 'nums' should be a list of whole numbers from 0 on, got {found!r:.60}"
            )
        numbers, target = found, row.integer("target")
    else:
        text = row.text("input")
        if not re.fullmatch(r" *[0-9]{1,9} *(?:, *[0-9]{1,9} *)*", text):
            raise UserError(f"{row.location}: field 'input' should be numbers like '30,100,93', got {text[:60]!r}")
        numbers, target = [int(number) for number in text.split(",")], row.integer("output")
    if len(numbers) != 3:
        return None
    first, second, third = numbers
    in_order = ",".join(map(str, sorted(numbers)))
    known = answers_by_target((first, second, third)).get(target, ())
    return Question(
        text=f"Numbers: {numbers}\nTarget: {target}",
        answer=format_answer("", rf"\boxed{{{known[0]}}}") if known else "",
        key=f"{in_order}={target}",
        cluster=f"{in_order}={target}",
        facts={"numbers": ",".join(map(str, numbers)), "target": target},
    )


def expression_of(answer: str, target: int) -> str:
    """Return an answer as plain arithmetic: signs of LaTeX and Markdown are translated, and a full stop is removed.

    So is `= 25` behind it if 25 is the target.
    """
    if len(answer) > _LONGEST:
        return answer
    for pattern, replacement in _LATEX:
        answer = pattern.sub(replacement, answer)
    answer = answer.strip().removesuffix(".")
    left, equals, right = answer.rpartition("=")
    return (left if equals and right.strip() == str(target) else answer).strip()


def grade(problem: Problem, completion: str) -> Grade:
    """Solved: an expression of exactly the numbers, each used once, that is worth the target."""
    numbers, target = problem.facts.get("numbers"), problem.facts.get("target")
    parts = {"solved": 0.0, "numbers": 0.0}
    if not isinstance(numbers, str) or not isinstance(target, int):
        return Grade(0.0, parts, "grader_failed")
    answer = final_answer(completion)
    expression = None if answer is None else parse_expression(expression_of(answer, target))
    if not isinstance(expression, Expression):
        return Grade(0.0, parts, "unparseable")
    uses_numbers = sorted(map(str, expression.numbers)) == sorted(numbers.split(","))
    parts = {"solved": float(uses_numbers and expression.value == target), "numbers": float(uses_numbers)}
    return solved_grade(parts)


def grade_d1(problem: Problem, completion: str) -> Grade:
    """Pay d1's reward: 1 if solved, 0.1 for an expression of the right numbers. d1's own pays that for empty tags."""
    graded = grade(problem, completion)
    if graded.is_solved:
        return graded
    return Grade(D1_FORMAT_REWARD * graded.parts["numbers"], graded.parts, graded.status)


COUNTDOWN_D1 = TaskFamily(
    "countdown-d1", INSTRUCTIONS, parse_row, grade, grade_d1, source="Jiayi-Pan/Countdown-Tasks-3to4", test_sample=256
)
