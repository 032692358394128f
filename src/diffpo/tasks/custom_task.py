"""A task of the user's own: what its class does wrong is told in one sentence. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffpo.core.errors import UserError
from diffpo.core.time_limit import OutOfTimeError
from diffpo.core.user_code import contained, describe
from diffpo.tasks.base import Grade, Problem, Split, TaskWrapper, failure_on, place_of
from diffpo.tasks.custom_reward import MAX_REWARD

GRADE_SECONDS = 300.0
"""How long a grader may take for a completion."""
TEXTS = ("id", "prompt", "answer", "cluster")


@dataclass(frozen=True)
class CheckedTask(TaskWrapper):
    """The user's task, with its problems and its grades checked.

    A grader that raises, does not return, or whose reward is not finite, has failed on that completion, as one of the
    user's own rewards does: 0, and status `grader_failed`. What is no grade at all is a mistake in the class, and ends
    the run.
    """

    kind: str
    """How the recipe names its class: file.py:Class."""

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Return the task's problems. Raises UserError where they cannot be had, or are no problems.

        There are `count` of them; to measure with, there may be fewer.
        """
        call = f"{self.kind}: problems({split!r}, {count}, {seed})"
        try:
            found = self.task.problems(split, count, seed)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{call} raises {describe(error)}; mend it") from error
        if not isinstance(found, Sequence) or not all(isinstance(problem, Problem) for problem in found):
            raise UserError(f"{call} gives {_shown(found)}; return a list of diffpo.Problem")
        # The problems to measure with may end; those to train on must not.
        if not 0 < len(found) <= count or (split == "train" and len(found) < count):
            raise UserError(f"{call} gives {len(found)} problems; return as many as are asked for")
        for problem in found:
            for field in TEXTS:
                if not isinstance(value := getattr(problem, field), str):
                    raise UserError(f"{call} gives a problem whose {field} is {_shown(value)}; make it a text")
        return list(found)

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Return the task's grade. Raises UserError where it is none."""
        try:
            with contained(GRADE_SECONDS):
                grade = self.task.grade(problem, completion)
        except OutOfTimeError:
            where = place_of(problem, completion)
            return Grade(
                0.0, {}, "grader_failed", f"{self.kind}: grade does not return within {GRADE_SECONDS:g} s {where}"
            )
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a completion must not be able to end a run
            return Grade(0.0, {}, "grader_failed", failure_on(f"{self.kind}: grade", error, problem, completion))
        if not isinstance(grade, Grade) or not isinstance(grade.parts, Mapping):
            raise UserError(f"{self.kind}: grade gives {_shown(grade)}; return diffpo.Grade(reward, parts)")
        try:
            reward = float(grade.reward)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.kind}: grade gives the reward {_shown(grade.reward)}; make it a number") from error
        if grade.status == "ok" and "solved" not in grade.parts:
            raise UserError(
                f"{self.kind}: grade gives parts without 'solved', by which accuracy and expert iteration go; "
                "add solved: 1.0 where the completion is right, and 0.0 elsewhere"
            )
        if abs(reward) <= MAX_REWARD:
            return replace(grade, reward=reward)
        told = f"{self.kind}: grade gives the reward {reward:g}; give one from {-MAX_REWARD:g} to {MAX_REWARD:g}"
        return Grade(0.0, {}, "grader_failed", told)


def _shown(value: Any) -> str:
    """Return a value as a message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
