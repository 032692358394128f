"""Rewards of the user's own, as TRL's trainers take them: `reward(prompts, completions, **columns) -> list[float]`."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diffpo.core.errors import UserError
from diffpo.core.user_code import load_user_code
from diffpo.tasks.base import Grade, Problem, Split, Task

TrlReward = Callable[..., Sequence[float | None]]

_GIVEN = ("prompts", "completions")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def load_reward(name: str) -> TrlReward:
    """Return the function that `file.py:function` or `package.module:function` names; a file is run once.

    Raises UserError where there is no such file, module or function, and where its code raises.
    """
    function: TrlReward = load_user_code(name, "reward", "function")
    return function


@dataclass(frozen=True)
class WithReward:
    """A task whose reward comes from a function; whether a problem is solved is still the task's to say.

    The function gets lists: `prompts`, `completions`, and of each problem's `facts` (the columns of its row) those that
    it names, or all where it takes `**kwargs`. None, which in TRL means "not for me", pays 0. A function that raises or
    returns no number has failed: 0, and status `grader_failed`.
    """

    task: Task
    function: TrlReward

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def alphabet(self) -> str:
        return self.task.alphabet

    @property
    def completion_length(self) -> int:
        return self.task.completion_length

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Return the task's problems. Raises UserError for a column that the function needs and the data lack."""
        problems = self.task.problems(split, count, seed)
        for problem in problems:
            for column in self._needed:
                if column not in problem.facts:
                    there = ", ".join(problem.facts) or "none"
                    raise UserError(
                        f"{self.name}: the reward {self._function_name} needs column {column!r}, which the data lack; "
                        f"there are {there}"
                    )
        return problems

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Return the function's reward with the task's parts. Never raises."""
        grade = self.task.grade(problem, completion)
        offered: dict[str, list[Any]] = {"prompts": [problem.prompt], "completions": [completion]}
        offered |= {name: [value] for name, value in problem.facts.items()}
        taken = {name: values for name, values in offered.items() if self._takes_all or name in self._parameters}
        try:
            (value,) = self.function(**taken)
            reward = 0.0 if value is None else float(value)
        except Exception:  # noqa: BLE001  it is the user's, and a completion must not be able to end a run
            return Grade(0.0, grade.parts, "grader_failed")
        is_number = abs(reward) < float("inf")
        return Grade(reward if is_number else 0.0, grade.parts, grade.status if is_number else "grader_failed")

    @property
    def _parameters(self) -> dict[str, Any]:
        return dict(inspect.signature(self.function).parameters)

    @property
    def _takes_all(self) -> bool:
        return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self._parameters.values())

    @property
    def _needed(self) -> list[str]:
        named = (p for p in self._parameters.values() if p.kind in _NAMED and p.default is inspect.Parameter.empty)
        return [p.name for p in named if p.name not in _GIVEN]

    @property
    def _function_name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))
