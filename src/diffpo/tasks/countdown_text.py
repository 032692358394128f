"""Countdown with three numbers, put in words: d1's and DMPO's test set, and TinyZero's train set.

Columns `nums` and `target` (Jiayi-Pan/Countdown-Tasks-3to4, of which only rows with three numbers are for this task),
or `input` ("30,100,93") and `output` ("23"), as in d1's `countdown_cd3_test.jsonl`.
"""

import re

from diffpo.core.errors import UserError
from diffpo.grading.answer import final_answer
from diffpo.grading.arithmetic import Reading, Unreadable
from diffpo.grading.arithmetic import read as read_arithmetic
from diffpo.tasks.base import Grade, Problem
from diffpo.tasks.countdown import answers
from diffpo.tasks.datasets import Row
from diffpo.tasks.text import Family, Question, solved_grade, worked_answer

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
    (re.compile(r"\\(?:left|right)(?![a-z])|\\[,;: ]|\$|\\[()\[\]]"), " "),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-z])|[\u00b7\u22c5]"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\[dt]?frac *\{([^{}]{1,80})\} *\{([^{}]{1,80})\}"), r"(\1)/(\2)"),
    (re.compile(r"[{\[]"), "("),
    (re.compile(r"[}\]]"), ")"),
    (re.compile(r"\s+"), " "),
)
_LONGEST = 1000  # of an answer as it is written; the reader of arithmetic takes fewer still


def read(row: Row) -> Question | None:
    if row.has("nums"):
        found = row.value("nums")
        if not (isinstance(found, list) and found and all(type(number) is int for number in found)):
            raise UserError(f"{row.where}: field 'nums' should be a list of whole numbers, got {found!r:.60}")
        numbers, target = found, row.integer("target")
    else:
        text = row.text("input")
        if not re.fullmatch(r" *[0-9]{1,9} *(?:, *[0-9]{1,9} *)*", text):
            raise UserError(f"{row.where}: field 'input' should be numbers like '30,100,93', got {text[:60]!r}")
        numbers, target = [int(number) for number in text.split(",")], row.integer("output")
    if len(numbers) != 3:
        return None
    first, second, third = numbers
    in_order = ",".join(map(str, sorted(numbers)))
    known = answers((first, second, third)).get(target, ())
    return Question(
        text=f"Numbers: {numbers}\nTarget: {target}",
        answer=worked_answer("", rf"\boxed{{{known[0]}}}") if known else "",
        key=f"{in_order}={target}",
        cluster=f"{in_order}={target}",
        facts={"numbers": ",".join(map(str, numbers)), "target": target},
    )


def expression_of(answer: str, target: int) -> str:
    """An answer as plain arithmetic: LaTeX's signs translated, and "= 25" taken off where 25 is the target."""
    if len(answer) > _LONGEST:
        return answer
    for pattern, replacement in _LATEX:
        answer = pattern.sub(replacement, answer)
    left, equals, right = answer.rpartition("=")
    return (left if equals and right.strip() == str(target) else answer).strip()


def correct(problem: Problem, completion: str) -> Grade:
    """Solved: an expression of exactly the numbers, each used once, that is worth the target; see `arithmetic.read`."""
    numbers, target = problem.facts.get("numbers"), problem.facts.get("target")
    parts = {"solved": 0.0, "numbers": 0.0}
    if not isinstance(numbers, str) or not isinstance(target, int):
        return Grade(0.0, parts, "grader_failed")
    answer = final_answer(completion)
    reading: Reading | Unreadable | None = None
    if answer is not None:
        reading = read_arithmetic(expression_of(answer, target))
    if not isinstance(reading, Reading):
        return Grade(0.0, parts, "unparseable")
    uses_numbers = sorted(map(str, reading.numbers)) == sorted(numbers.split(","))
    parts = {"solved": float(uses_numbers and reading.value == target), "numbers": float(uses_numbers)}
    return solved_grade(parts)


def d1_reward(problem: Problem, completion: str) -> Grade:
    """d1's reward: 1 if correct, 0.1 for an expression of the right numbers. d1's own pays that for empty tags."""
    grade = correct(problem, completion)
    return grade if grade.is_solved else Grade(D1_FORMAT_REWARD * grade.parts["numbers"], grade.parts, grade.status)


COUNTDOWN_D1 = Family(
    "countdown-d1", INSTRUCTIONS, read, correct, d1_reward, source="Jiayi-Pan/Countdown-Tasks-3to4", test_sample=256
)
