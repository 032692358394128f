"""s1K (simplescaling/s1K, arXiv 2501.19393): a thousand hard questions with long reasoning, for SFT alone, as in d1.

Columns `question`, `thinking_trajectories` (a list of texts, of which the first is used) and `attempt`, which is free
text and need not be right: there is nothing to grade by.
"""

from collections.abc import Mapping, Sequence

from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.datasets import Row
from diffpo.tasks.splits import split_by_hash
from diffpo.tasks.text import Question, TaskFamily, format_answer

INSTRUCTIONS = """
Answer the following question. First reason step by step between <reasoning> and </reasoning>, then give your answer
between <answer> and </answer>, like this:
<reasoning>
first step, second step, ...
</reasoning>
<answer>
your answer
</answer>
"""

_VALIDATION_BYTES = 3  # of 256: about the 10 rows of 1000 that d1 holds out


def parse_row(row: Row) -> Question:
    """Parse a row. Raises UserError where a column is missing or empty."""
    text = row.text("question").strip()
    reasoning, attempt = row.first_text("thinking_trajectories"), row.text("attempt")
    return Question(text, format_answer(reasoning, attempt.strip()), key=text, cluster=text, facts={})


def divide(keys: Sequence[str]) -> Mapping[str, Split]:
    """Divide keys by their hash: 3/256 go to validation, none to a test that could not be graded, the rest to train."""
    return {key: split_by_hash(ascii(key), test=0, validation=_VALIDATION_BYTES) for key in set(keys)}


def ungraded(problem: Problem, completion: str) -> Grade:
    """Report that the grader failed: there is nothing to grade by. Recipes that would grade s1K are refused before."""
    return Grade(0.0, {"solved": 0.0}, "grader_failed")


S1K = TaskFamily(
    "s1k",
    INSTRUCTIONS,
    parse_row,
    ungraded,
    ungraded,
    source="simplescaling/s1K",
    divide=divide,
    splits=frozenset({"train", "validation"}),
)
