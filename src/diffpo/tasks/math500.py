"""MATH: competition problems with answers in LaTeX. Columns `problem` and `answer`, or a `solution` with a box in it.

Train on MATH without the 500 (ankner/math-500), test on those 500 (HuggingFaceH4/MATH-500), as d1 and DMPO do.
"""

from diffpo.core.errors import UserError
from diffpo.grading.answer import CLOSE, OPEN, final_answer, last_box
from diffpo.grading.math_answer import compare_answers
from diffpo.grading.symbolic import Verdict
from diffpo.tasks.base import Grade, Problem
from diffpo.tasks.datasets import Row
from diffpo.tasks.text import Question, TaskFamily, format_answer, scalar_columns, solved_grade

INSTRUCTIONS = r"""
Solve the following mathematics problem step by step. Write your steps between <reasoning> and </reasoning>, then only
the final answer, simplified, in \boxed{} between <answer> and </answer>, like this:
<reasoning>
first step, second step, ...
</reasoning>
<answer>
\boxed{\frac{3}{4}}
</answer>
"""


def parse_row(row: Row) -> Question:
    """Parse a row. Raises UserError where it has no answer."""
    text = row.text("problem").strip()
    has_answer = row.has("answer") and row.value("answer") not in (None, "")
    has_solution = row.has("solution") and not (has_answer and row.value("solution") in (None, ""))
    solution = row.text("solution") if has_solution else ""
    gold = row.written("answer") if has_answer or not solution else last_box(solution, is_whole=False)
    if gold is None:
        raise UserError(
            f"{row.location}: field 'solution' should have its answer in \\boxed{{}}, and there is no 'answer'"
        )
    return Question(
        text=text,
        answer=format_answer(solution, rf"\boxed{{{gold}}}"),
        key=text,
        cluster=text,
        facts=scalar_columns(row) | {"gold": gold},
    )


def grade(problem: Problem, completion: str) -> Grade:
    """Solved: the final answer means the same as the gold one. `unparseable`: there is none, or no mathematics."""
    verdict = _verdict(problem, completion)
    solved = {"solved": float(verdict == "equal")}
    if verdict in ("unparseable", "failed"):
        return Grade(0.0, solved, "grader_failed" if verdict == "failed" else "unparseable")
    return solved_grade(solved)


def grade_d1(problem: Problem, completion: str) -> Grade:
    """Add up d1's two rewards, at most 3: correct 2, a closed answer section 0.5, and a box in it 0.5.

    d1's own gives 0.25 for the empty text.
    """
    graded = grade(problem, completion)
    if graded.status == "grader_failed":
        return graded
    section, closed, _ = completion.rpartition(OPEN)[2].partition(CLOSE)
    has_section = OPEN in completion and bool(closed) and bool(section.strip())
    has_box = has_section and last_box(section, is_whole=False) is not None
    parts = dict(graded.parts) | {
        "correct": 2.0 * graded.parts["solved"],
        "section": 0.5 * has_section,
        "box": 0.5 * has_box,
    }
    return Grade(sum(parts.values()) - parts["solved"], parts, graded.status)


def _verdict(problem: Problem, completion: str) -> Verdict:
    gold = problem.facts.get("gold")
    if not isinstance(gold, str) or not gold.strip():
        return "failed"
    answer = final_answer(completion)
    return "unparseable" if answer is None else compare_answers(gold, answer)


MATH500 = TaskFamily(
    "math500", INSTRUCTIONS, parse_row, grade, grade_d1, source="ankner/math-500", test_source="HuggingFaceH4/MATH-500"
)
