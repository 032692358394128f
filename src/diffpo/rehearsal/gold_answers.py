"""A task for random models: of every other completion, the gold answer is graded in its place."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from diffpo.tasks.base import Drawn, Grade, Problem, Split, TaskWrapper, grade_all


@dataclass(frozen=True)
class WithGoldAnswers(TaskWrapper):
    """A task whose grader gets the gold answers of every other row, so that a random model has something to learn.

    What the rewards say of these and of the model's own texts is what they would say in a run.
    """

    own_grades: list[Grade] = field(default_factory=list)
    """Those of the model's own texts so far."""

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        return self.task.problems(split, count, seed)

    def grade(self, problem: Problem, completion: str) -> Grade:
        return self.task.grade(problem, completion)

    def grade_all(
        self, problems: Sequence[Problem], completions: Sequence[str], drawn: Sequence[Drawn] | None = None
    ) -> list[Grade]:
        """Grade the gold answer in place of each completion at an even row, where there is one."""
        is_gold = [row % 2 == 0 and bool(problem.answer) for row, problem in enumerate(problems)]
        texts = [p.answer if gold else c for p, c, gold in zip(problems, completions, is_gold, strict=True)]
        drawn = drawn or [Drawn.of_text(text) for text in texts]
        drawn = [Drawn.of_text(t) if gold else d for t, d, gold in zip(texts, drawn, is_gold, strict=True)]
        grades = grade_all(self.task, problems, texts, drawn)
        self.own_grades.extend(grade for grade, gold in zip(grades, is_gold, strict=True) if not gold)
        return grades
