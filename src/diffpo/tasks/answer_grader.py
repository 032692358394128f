"""Graders by their name, for the rows of the user's own: a completion's answer is compared with the row's."""

import re
from dataclasses import dataclass
from typing import Literal

from diffpo.core.time_limit import OutOfTimeError, time_limit
from diffpo.grading.answer import answer_or_text, until_stop
from diffpo.grading.math_answer import compare_answers
from diffpo.grading.number import parse_answer_number
from diffpo.grading.symbolic import Verdict
from diffpo.tasks.base import Grade, Problem, place_of

GraderName = Literal["exact", "number", "math", "regex", "none"]
PATTERN_SECONDS = 2.0
"""How long a pattern may search a completion: there are patterns that never come to an end."""
UNGRADED = Grade(0.0, {})


@dataclass(frozen=True)
class AnswerGrader:
    """Grades 1 or 0 by the answer in a completion: its `<answer>` section or box, or all of it where it has neither.

    - `exact`: the same text as the answer in the row's; white space counts as one space.
    - `number`: the same number, exactly. `math`: the same mathematics, as LaTeX.
    - `regex`: the last match of `pattern`, or its first group, is what it is in the row's answer; for a row without an
      answer a match is right.
    - `none`: nothing is known, neither a reward nor whether the completion is right.
    """

    name: GraderName
    pattern: str | None = None

    @property
    def needs_answer(self) -> bool:
        """Whether rows must have answers."""
        return self.name in ("exact", "number", "math")

    def fault_of(self, answer: str) -> str:
        """Return what is wrong with a row's answer, by which nothing could be right; "" if nothing is."""
        if self.name == "none" or (self.name == "regex" and not answer):
            return ""
        found = self._found(answer)
        if self.name == "number" and (found is None or parse_answer_number(found) is None):
            return "should give one number, as task.grader = 'number' asks for"
        if self.name == "regex" and found is None:
            return (
                "should have a match of task.pattern, as an answer that is right would; "
                "task.answer_template can write it so"
            )
        return "" if found else "is empty"

    def __call__(self, problem: Problem, completion: str) -> Grade:
        """Return the grade; never raises. `unparseable`: the completion has no answer of this kind."""
        if self.name == "none":
            return UNGRADED
        try:
            with time_limit(PATTERN_SECONDS):
                found, gold = self._found(completion), self._found(problem.answer)
        except OutOfTimeError:
            told = f"task.pattern takes more than {PATTERN_SECONDS:g} s {place_of(problem, completion)}; simplify it"
            return Grade(0.0, {"solved": 0.0}, "grader_failed", told)
        if gold is None and (self.needs_answer or problem.answer):
            told = f"no answer can be read in that of problem {problem.id!r}, {problem.answer[:200]!r}"
            return Grade(0.0, {"solved": 0.0}, "grader_failed", told)
        verdict = "unparseable" if found is None else self._compare(gold, found)
        solved = {"solved": float(verdict == "equal")}
        if verdict == "failed":
            return Grade(
                0.0, solved, "grader_failed", f"the answers cannot be compared {place_of(problem, completion)}"
            )
        return Grade(solved["solved"], solved, "unparseable" if verdict == "unparseable" else "ok")

    def _compare(self, gold: str | None, found: str) -> Verdict:
        if self.name == "math":
            return compare_answers(gold or "", found)
        if self.name == "number":
            number = parse_answer_number(found)
            if number is None:
                return "unparseable"
            return "equal" if number == parse_answer_number(gold or "") else "different"
        return "equal" if gold in (None, found) else "different"

    def _found(self, text: str) -> str | None:
        """Return what of a text is compared; None if there is nothing."""
        if self.name != "regex":
            found = answer_or_text(text)
            return (" ".join(found.split()) if self.name == "exact" else found) or None
        last = None
        for last in re.finditer(self.pattern or "", until_stop(text)):  # noqa: B007  the last one is used below
            pass
        return None if last is None else (last[1] if last.re.groups else last[0]) or None
