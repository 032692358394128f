"""Rewards of the user's own, as TRL's trainers take them: `reward(prompts, completions, **columns) -> list[float]`."""

import asyncio
import inspect
import math
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice
from threading import Thread
from types import MappingProxyType
from typing import Any

from diffpo.core.errors import UserError
from diffpo.core.python_function import is_python_name, short_name
from diffpo.core.suggestion import suggestion
from diffpo.core.time_limit import OutOfTimeError
from diffpo.core.user_code import contained, describe, load_user_code
from diffpo.tasks.base import Drawn, Grade, Problem, Split, TaskWrapper, failure_on, grade_all, place_of

TrlReward = Callable[..., Any]
"""Returns a sequence of one number, or None, for each completion; or a coroutine that does."""

MAX_REWARD = 1e15
"""Squares of greater rewards, and sums of them, leave float32."""
PART = "rewards/{}"
"""Under this name a grade's parts have what each function gave, unweighted; TRL logs `rewards/NAME/mean`."""

DRAWN = ("completion_ids", "unmask_step", "nfe")
"""What is offered of each `Drawn`."""
_GIVEN = ("prompts", "completions", *DRAWN)
_AS_MESSAGES = re.compile(r"string ind(ices|ex)|'str' object has no attribute '(get|content|role)'")
"""What Python says where `completion[0]["content"]`, or the like, is read of a text."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def load_reward(name: str) -> TrlReward:
    """Return the function that `file.py:function` or `package.module:function` names; a file is run once.

    Raises UserError where there is no such file, module or function, where its code raises, and for a function whose
    parameters cannot be told.
    """
    return _with_signature(load_user_code(name, "reward", "function"), name)


def _with_signature(function: TrlReward, name: str) -> TrlReward:
    """Return the function. Raises UserError where its parameters cannot be told."""
    try:
        inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the reward {name} does not tell its parameters ({describe(error)}); name a Python function that calls it"
        ) from error
    return function


@dataclass(frozen=True)
class WeightedReward:
    """A reward function, the name under which it is logged, and its weight in the sum."""

    function: TrlReward
    name: str
    weight: float = 1.0


def weighted_rewards(
    weights: Mapping[str, float], given: Mapping[str, TrlReward] = MappingProxyType({})
) -> tuple[WeightedReward, ...]:
    """Return the functions of these names, each called by its own name or, where two share it, by the whole.

    Those that are `given` are taken, others loaded. Raises UserError as `load_reward` does, and for one that was handed
    over in Python and is not given here.
    """
    short = [short_name(name) for name in weights]
    return tuple(
        WeightedReward(_given_or_loaded(name, given), own if short.count(own) == 1 else name, weight)
        for own, (name, weight) in zip(short, weights.items(), strict=True)
    )


def _given_or_loaded(name: str, given: Mapping[str, TrlReward]) -> TrlReward:
    if name in given:
        return _with_signature(given[name], name)
    if is_python_name(name):
        own = short_name(name)
        raise UserError(
            f"the reward {own} was handed over in Python, and no file holds it ({name}); go on from Python: "
            f"diffpo.train(..., reward={own}, resume=True), or diffpo.evaluate(..., reward={own})"
        )
    return load_reward(name)


_Answer = tuple[Problem, str, Drawn]


class _FailedError(Exception):
    """A function did not do what it should; the message says what, in words for its author."""


@dataclass(frozen=True)
class WithReward(TaskWrapper):
    """A task whose reward is a weighted sum of functions; whether a problem is solved is still the task's to say.

    The functions get lists, one entry for each completion of a batch: `prompts`, `completions`, the fields of `Drawn`,
    and the problems' `facts` (the columns of their rows): those that they name, or all where they take `**kwargs`. A
    column of a name that is given anyway is left out. They may be coroutines.

    None means "not for me", as in TRL: it adds nothing, and is left out of the mean that is logged; the part is then
    NaN. A completion for which all of them give None has failed, unless the task's own reward counts, too.

    A completion on which one of them fails earns 0, with status `grader_failed` and the cause as the grade's `failure`.
    Where a function raises on a batch it is called again for each completion alone, so that one does not cost the
    others their rewards. So is one that does not return within `seconds`: each completion then has its share of them,
    so that a batch takes twice as long at most.
    """

    rewards: tuple[WeightedReward, ...]
    seconds: float
    """How long a function may take for a batch (`core/time_limit.py`)."""
    task_weight: float = 0.0
    """Weight of the task's own reward in the sum."""
    solved_at: float | None = None
    """For a task that cannot say what is solved: the reward from which a completion is. None: the task says it."""

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Return the task's problems. Raises UserError for a column that a function needs and the data lack."""
        problems = self.task.problems(split, count, seed)
        for problem in problems:
            for reward in self.rewards:
                for column in _needed(reward.function):
                    if column not in problem.facts:
                        there = ", ".join(problem.facts) or "none"
                        raise UserError(
                            f"{self.name}: the reward {reward.name} needs column {column!r}, which the data lack; "
                            f"there are {there}{suggestion(column, problem.facts)}"
                        )
        return problems

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Return the functions' reward with the task's parts. Never raises."""
        return self.grade_all([problem], [completion])[0]

    def grade_all(
        self, problems: Sequence[Problem], completions: Sequence[str], drawn: Sequence[Drawn] | None = None
    ) -> list[Grade]:
        """Return the grades of a batch, for which each function is called once. Never raises."""
        grades = grade_all(self.task, problems, completions, drawn)
        drawn = drawn or [Drawn.of_text(text) for text in completions]
        batch = list(zip(problems, completions, drawn, strict=True))
        columns = [_values(reward, batch, self.seconds) for reward in self.rewards]
        return [
            self._combined(grade, [column[row] for column in columns], place_of(*batch[row][:2]).removeprefix("on "))
            for row, grade in enumerate(grades)
        ]

    def _combined(self, grade: Grade, values: Sequence[float | str], place: str) -> Grade:
        """Return the task's grade of a completion with the functions' values for it, of which texts are failures.

        `place` names problem and completion for a message.
        """
        failures = [value for value in values if isinstance(value, str)]
        numbers = [0.0 if isinstance(value, str) else value for value in values]
        named = list(zip(self.rewards, numbers, strict=True))
        parts = dict(grade.parts) | {PART.format(reward.name): number for reward, number in named}
        if not failures and self.task_weight == 0 and all(map(math.isnan, numbers)):
            names = ", ".join(reward.name for reward in self.rewards)
            failures = [f"no reward scores {place}: {names} gave None; let one of them give a number"]
        if failures:
            return Grade(0.0, parts, "grader_failed", grade.failure or failures[0])
        given = [(reward, number) for reward, number in named if not math.isnan(number)]
        total = sum((reward.weight * number for reward, number in given), self.task_weight * grade.reward)
        if self.solved_at is not None:
            parts["solved"] = float(total >= self.solved_at)
        return replace(grade, reward=total, parts=parts)


def _values(reward: WeightedReward, batch: Sequence[_Answer], seconds: float) -> list[float | str]:
    """Return what a function gives each completion or, as a text, why it gives it nothing."""
    alone = seconds
    try:
        with contained(seconds):
            return _called(reward, batch)
    except _FailedError as failed:
        return [f"the reward {reward.name} {failed}"] * len(batch)
    except OutOfTimeError:
        alone = seconds / len(batch)
        if len(batch) == 1:
            where = place_of(*batch[0][:2])
            return [
                f"the reward {reward.name} does not return within {seconds:.3g} s {where}; raise task.reward_seconds"
            ]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a completion must not be able to end a run
        if len(batch) == 1:
            return [_raised(reward, error, *batch[0][:2])]
    # Behind the handler, so that the failure of one is not told as a consequence of the batch's.
    return [_values(reward, [answer], alone)[0] for answer in batch]


def _raised(reward: WeightedReward, error: BaseException, problem: Problem, completion: str) -> str:
    """Return the failure of a function that raised; where it read a text as a list of messages, with a word of that."""
    first, newline, trace = failure_on(f"the reward {reward.name}", error, problem, completion).partition("\n")
    is_for_messages = isinstance(error, TypeError | IndexError | AttributeError) and _AS_MESSAGES.match(str(error))
    hint = "; completions and prompts are plain texts here, not lists of messages" if is_for_messages else ""
    return f"{first}{hint}{newline}{trace}"


def _called(reward: WeightedReward, batch: Sequence[_Answer]) -> list[float | str]:
    """Call a function for a batch. Raises _FailedError for what is not a number each, and what the function raises."""
    problems = [problem for problem, _, _ in batch]
    shared = {name for problem in problems for name in problem.facts}
    # Each function gets lists of its own, which it may sort or empty: the others', and the batch, stay as they are.
    offered: dict[str, list[Any]] = {name: [problem.facts.get(name) for problem in problems] for name in sorted(shared)}
    offered |= {"prompts": [problem.prompt for problem in problems], "completions": [text for _, text, _ in batch]}
    offered |= {name: [_as_list(getattr(drawn, name)) for _, _, drawn in batch] for name in DRAWN}
    parameters = _parameters(reward.function)
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    found = reward.function(**{name: values for name, values in offered.items() if takes_all or name in parameters})
    if inspect.iscoroutine(found):
        found = _awaited(found)
    if isinstance(found, str | bytes | Mapping | Set):  # a set has no order
        raise _FailedError(f"returns a {type(found).__name__}; return a list of a number for each completion")
    try:
        values = list(islice(found, len(batch) + 1))  # what is endless ends here
    except TypeError:
        raise _FailedError(f"returns {found!r:.60}; return a list of a number for each completion") from None
    if len(values) != len(batch):
        count = f"more than {len(batch)}" if len(values) > len(batch) else len(values)
        raise _FailedError(f"returns {count} values for {len(batch)} completions; return a number for each of them")
    return [_number(reward, value, *answer[:2]) for value, answer in zip(values, batch, strict=True)]


def _as_list(value: Any) -> Any:
    """Return a tuple as the list that TRL gives."""
    return list(value) if isinstance(value, tuple) else value


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    return _awaited_elsewhere(coroutine)  # this thread has a running loop already, as in a notebook


def _awaited_elsewhere(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Await a coroutine in a thread of its own, and cancel it there where the waiting is interrupted."""
    result: Future[Any] = Future()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def awaited() -> Any:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await coroutine

    def work() -> None:
        try:
            result.set_result(asyncio.run(awaited()))
        except BaseException as error:  # noqa: BLE001  it is raised where the result is waited for
            result.set_exception(error)

    Thread(target=work, name="an async reward", daemon=True).start()
    try:
        return result.result()
    except BaseException:
        for loop, task in running:
            if task is not None and not result.done():
                loop.call_soon_threadsafe(task.cancel)
        raise


def _number(reward: WeightedReward, value: Any, problem: Problem, completion: str) -> float | str:
    """Return a value as a number, None as NaN, or why it is none."""
    if value is None:
        return math.nan
    try:
        is_none = isinstance(value, str | bytes) or getattr(value, "ndim", 0) > 0  # of an array with a second axis
        number = math.nan if is_none else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if abs(number) <= MAX_REWARD:
        return number
    return (
        f"the reward {reward.name} gives {value!r:.60} {place_of(problem, completion)}; give a number from "
        f"{-MAX_REWARD:g} to {MAX_REWARD:g}, or None"
    )


def _parameters(function: TrlReward) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _needed(function: TrlReward) -> list[str]:
    named = (p for p in _parameters(function).values() if p.kind in _NAMED and p.default is inspect.Parameter.empty)
    return [p.name for p in named if p.name not in _GIVEN]
