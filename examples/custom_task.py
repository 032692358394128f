r"""A task of your own: sort digits. `3142>` is to be completed by `1234`.

    diffpo sft sudoku4-base --out runs/sort 'task={kind="examples/custom_task.py:SortDigits"}'
    diffpo rl tiny-d1 --out runs/sort-rl base=runs/sort 'budget={steps=20}' \
        'task={kind="examples/custom_task.py:SortDigits", credit=0.5}'
    diffpo eval runs/sort-rl task.kind=examples/custom_task.py:SortDigits
    diffpo sample runs/sort-rl --prompt '314265>' --length 6

`eval` names the task again, and `sample` the length: a folder runs no code that its own recipe names.
"""

from dataclasses import dataclass
from random import Random

from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.splits import draw_distinct, split_by_hash

DIGITS = "0123456789"


@dataclass(frozen=True)
class SortDigits:
    """Sort `digits` digits; `credit` is what the share of digits at their position earns when not all are there."""

    digits: int = 6
    credit: float = 0.0

    @property
    def name(self) -> str:
        return f"sort{self.digits}"

    @property
    def alphabet(self) -> str:
        """Every character of prompts and answers: a tiny model's tokenizer is made of them."""
        return DIGITS + ">"

    @property
    def completion_length(self) -> int:
        """Tokens of the canvas; here a token is a character."""
        return self.digits

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Return problems of a split. The same arguments give the same ones, and no answer is in two splits."""
        rng = Random(f"{self.name}/{split}/{seed}")

        def draw() -> Problem:
            while True:
                digits = "".join(rng.choices(DIGITS, k=self.digits))
                answer = "".join(sorted(digits))
                if split_by_hash(answer) == split:
                    return Problem(f"{self.name}-{split}-{digits}", prompt=f"{digits}>", answer=answer, cluster=answer)

        return draw_distinct(draw, count)

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Return reward 1 for the sorted digits, else a share of `credit`. Never raises, whatever the completion."""
        if len(completion) != self.digits:
            return Grade(0.0, {"solved": 0.0, "at_position": 0.0}, "unparseable")
        pairs = zip(completion, problem.answer, strict=False)
        share = sum(digit == right for digit, right in pairs) / self.digits
        solved = completion == problem.answer
        return Grade(1.0 if solved else self.credit * share, {"solved": float(solved), "at_position": share})
