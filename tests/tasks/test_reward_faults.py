"""Rewards of one's own that go wrong: told once with function, row, completion and traceback; never silent."""

import asyncio
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.forked import Forked

from diffpo.core.errors import UserError
from diffpo.core.printable import printable
from diffpo.models.model_paths import METRICS
from diffpo.recipes import load_recipe
from diffpo.recipes.stored import stored_task
from diffpo.recipes.tables import Gsm8kTask, RlRecipe, SftRecipe, SudokuTask
from diffpo.recipes.tasks import build_task
from diffpo.tasks.base import Grade, Problem
from diffpo.tasks.custom_reward import WeightedReward, WithReward, weighted_rewards
from diffpo.tasks.sudoku import Sudoku
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

PROBLEMS = [Problem(f"p{i}", "1234" * 4, "1234" * 4, "c", {"clues": i}) for i in range(4)]
TEXTS = ["aa", "b", "cccc", ""]
SMALL = ["threads=1", "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.mlp_hidden_size=16"]


def grades(
    *functions: Callable[..., Any], weights: tuple[float, ...] = (), seconds: float = 60.0, task_weight: float = 0.0
) -> list[Grade]:
    """The grades of four completions by these functions."""
    given = weights or (1.0,) * len(functions)
    rewards = tuple(WeightedReward(f, f"f{i}", w) for i, (f, w) in enumerate(zip(functions, given, strict=True)))
    return WithReward(Sudoku(), rewards, seconds, task_weight).grade_all(PROBLEMS, TEXTS)


def length(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def clues(prompts: list[str], completions: list[str], clues: list[int]) -> list[float | None]:
    return [None if number == 2 else float(number) for number in clues]


async def slowly(completions: list[str], **columns: Any) -> list[float]:
    await asyncio.sleep(0)
    return length(completions)


@pytest.mark.parametrize("read", [lambda c: c[0]["content"], lambda c: c["content"], lambda c: c[0].get("content")])
def test_a_reward_for_lists_of_messages_is_told_what_it_gets(read: Callable[[Any], str]) -> None:
    found = grades(lambda completions: [len(read(completion)) for completion in completions])
    assert [grade.status for grade in found] == ["grader_failed"] * 4
    for grade in found:
        assert grade.failure is not None
        first, *trace = grade.failure.splitlines()
        assert first.endswith("; completions and prompts are plain texts here, not lists of messages") and trace


def test_another_mistake_of_a_reward_has_no_such_word() -> None:
    for read in (lambda text: [][0], lambda text: text + 1, lambda text: text.long):
        failure = grades(lambda completions, read=read: [read(text) for text in completions])[0].failure
        assert failure is not None and "plain texts" not in failure


def test_a_batch_is_one_call() -> None:
    seen: list[int] = []

    def counted(completions: list[str]) -> list[float]:
        seen.append(len(completions))
        return length(completions)

    assert [grade.reward for grade in grades(counted)] == [2, 1, 4, 0]
    assert seen == [4]


def test_several_are_weighed_and_each_is_kept_by_its_name() -> None:
    found = grades(length, clues, weights=(0.5, -2.0))
    assert [grade.reward for grade in found] == [1.0, 0.5 - 2, 2.0, -6.0]
    assert [grade.parts["rewards/f0"] for grade in found] == [2, 1, 4, 0]
    assert repr([grade.parts["rewards/f1"] for grade in found]) == "[0.0, 1.0, nan, 3.0]", "None pays nothing"


def test_a_completion_that_no_reward_scores_has_failed() -> None:
    found = grades(lambda completions: [None, 1.0, None, 0.0])
    assert [grade.reward for grade in found] == [0, 1, 0, 0]
    assert [grade.status == "grader_failed" for grade in found] == [True, False, True, False]
    assert found[0].failure == (
        "no reward scores problem 'p0', completion 'aa': f0 gave None; let one of them give a number"
    )
    with_own = grades(lambda completions: [None] * 4, task_weight=1.0)
    assert not any(grade.status == "grader_failed" for grade in with_own), "the task's own reward scores it"


def test_coroutines_are_awaited_also_beside_a_running_loop() -> None:
    async def inside() -> list[Grade]:
        return grades(slowly)

    assert [grade.reward for grade in grades(slowly)] == [2, 1, 4, 0]
    assert [grade.reward for grade in asyncio.run(inside())] == [2, 1, 4, 0]


def raises_on_b(completions: list[str]) -> list[float]:
    if "b" in completions:
        raise KeyError("no \x1b[31mb")
    return length(completions)


def exits(completions: list[str]) -> list[float]:
    sys.exit(0)


def test_one_that_raises_costs_only_its_own_row() -> None:
    found = grades(raises_on_b)
    assert [grade.reward for grade in found] == [2, 0, 4, 0]
    assert [grade.status for grade in found] == ["unparseable", "grader_failed", "unparseable", "unparseable"]
    told = found[1].failure
    assert "the reward f0 raises KeyError" in told and "on problem 'p1', completion 'b'" in told
    assert "Traceback" in told and "raise KeyError" in told
    assert "\x1b" not in printable(told) and "\\x1b[31m" in printable(told)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (exits, "the reward f0 raises SystemExit: 0 on problem 'p0', completion 'aa'"),
        (lambda completions: 1.0, "the reward f0 returns 1.0; return a list of a number for each completion"),
        (lambda completions: None, "the reward f0 returns None; return a list"),
        (lambda completions: [1.0], "the reward f0 returns 1 values for 4 completions; return a number for each"),
        (lambda completions: "1111", "the reward f0 returns a str; return a list of a number for each completion"),
        (
            lambda completions: ["1"] * 4,
            "the reward f0 gives '1' on problem 'p0', completion 'aa'; give a number from -1e+15 to 1e+15, or None",
        ),
        (lambda completions: [math.nan] * 4, "the reward f0 gives nan on problem 'p0', completion 'aa'; give a number"),
        (lambda completions: [1e300] * 4, "the reward f0 gives 1e+300 on problem 'p0'"),
        (lambda completions: torch.ones(4, 1), "the reward f0 gives tensor([1.]) on problem 'p0'"),
        (lambda completions: np.ones((4, 1)), "the reward f0 gives array([1.]) on problem 'p0'"),
        (lambda completions: [10**400] * 4, "the reward f0 gives 1000"),
        (lambda completions: [[1.0]] * 4, "the reward f0 gives [1.0] on problem 'p0'"),
    ],
)
def test_what_is_no_reward_is_told(function: Callable[..., Any], told: str) -> None:
    for grade in grades(function):
        assert (grade.reward, grade.status, grade.parts["rewards/f0"]) == (0.0, "grader_failed", 0.0)
    assert grades(function)[0].failure.startswith(told)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, tuple, iter])
def test_numbers_of_every_library_are_taken(kind: Callable[..., Any]) -> None:
    assert [grade.reward for grade in grades(lambda completions: kind([2.0, 1.0, 4.0, 0.0]))] == [2, 1, 4, 0]


def waits_on_b(completions: list[str]) -> list[float]:
    if "b" in completions:
        time.sleep(5)
    return length(completions)


async def awaits_on_b(completions: list[str]) -> list[float]:
    if "b" in completions:
        await asyncio.sleep(5)
    return length(completions)


async def computes_on_b(completions: list[str]) -> list[float]:
    end = time.monotonic() + 5
    while "b" in completions and time.monotonic() < end:
        pass
    return length(completions)


@pytest.mark.parametrize("function", [waits_on_b, awaits_on_b, computes_on_b])
def test_one_that_does_not_return_costs_only_its_own_row(function: Callable[..., Any]) -> None:
    started = time.monotonic()
    found = grades(function, seconds=1.0)
    assert [grade.reward for grade in found] == [2, 0, 4, 0]
    assert [grade.status == "grader_failed" for grade in found] == [False, True, False, False]
    assert found[1].failure == (
        "the reward f0 does not return within 0.25 s on problem 'p1', completion 'b'; raise task.reward_seconds"
    )
    assert 1.25 <= time.monotonic() - started < 30


class Cancelled(BaseException):
    pass


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


def raises_class(kind: type[BaseException]) -> Callable[..., list[float]]:
    def reward(completions: list[str]) -> list[float]:
        raise kind

    return reward


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda completions: {0.5, 1.5, 2.5, 3.5}, "f0 returns a set; return a list of a number for each completion"),
        (lambda completions: frozenset({1.0}), "f0 returns a frozenset; return a list"),
        (lambda completions: itertools.repeat(0.5), "f0 returns more than 4 values for 4 completions"),
        (lambda completions: (float(i) for i in itertools.count()), "f0 returns more than 4 values for 4 completions"),
        (raises_class(Cancelled), "f0 raises Cancelled: on problem"),
        (raises_class(asyncio.CancelledError), "f0 raises CancelledError: on problem"),
        (raises_class(GeneratorExit), "f0 raises GeneratorExit: on problem"),
        (raises_class(Unreadable), "f0 raises Unreadable: (a message that cannot be read) on problem"),
    ],
)
def test_what_a_reward_may_do_besides_returning_numbers(function: Callable[..., Any], told: str) -> None:
    try:
        found = grades(function)
    except BaseException as error:  # noqa: BLE001  nothing may escape
        found = [Grade(0.0, {}, "ok", repr(error))]
    assert all(grade.status == "grader_failed" and told in grade.failure for grade in found), found[0].failure


def test_a_message_of_ten_megabytes_is_cut() -> None:
    def reward(completions: list[str]) -> list[float]:
        raise ValueError("x" * 10_000_000)

    assert len(grades(reward)[0].failure) < 20_000


def test_what_a_reward_did_to_the_process_is_undone(tmp_path: Path) -> None:
    def reward(completions: list[str]) -> list[float]:
        os.chdir(tmp_path)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return length(completions)

    before = Path.cwd()
    try:
        grades(reward)
        found = Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype()
    finally:
        os.chdir(before)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
    assert found == (before, True, torch.float32)


def forks(completions: list[str]) -> list[float]:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return length(completions)


def note_who_comes_out(file: Path) -> None:
    grades(forks)
    with file.open("a") as out:
        out.write("x")


def test_a_child_that_a_reward_forks_ends_in_it(tmp_path: Path) -> None:
    """It would train, and write to the run, beside its parent."""
    nowhere = Path(os.devnull)
    Forked(note_who_comes_out, tmp_path / "out", stdout=nowhere, stderr=nowhere).wait(60)
    assert (tmp_path / "out").read_text() == "x"


def test_a_function_that_does_not_tell_its_parameters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("longest = max\n")
    try:
        weighted_rewards({f"{tmp_path}/own.py:longest": 1.0})
        told = ""
    except (UserError, ValueError) as error:
        told = f"{type(error).__name__}: {error}"
    assert "UserError: the reward" in told and "does not tell its parameters (ValueError: no signature" in told


def test_ctrl_c_is_not_a_failure() -> None:
    def interrupted(completions: list[str]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grades(interrupted)


# --- in a recipe, and in a run


CODE = """
import sys
import time

def right(completions, **columns):
    return [1.0 for _ in completions]

def short(completions, clues):
    return [-float(len(text)) + number for text, number in zip(completions, clues)]

def quits(completions, **columns):
    sys.exit(0)

def waits(completions, **columns):
    time.sleep(60)

def fussy(completions, clues):
    if any(number % 2 for number in clues):
        raise ValueError("an odd number of clues")
    return [float(number) for number in clues]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(CODE)
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rewards") / "base"
    run_sft(load_recipe(SftRecipe, None, [*SMALL, "steps=1", "batch=4"]), out)
    return out


def rl_recipe(base: Path, reward: str, steps: int = 1, group: int = 2) -> RlRecipe:
    given = [f"base={json.dumps(str(base))}", f"budget.steps={steps}", "threads=1", f"task.reward={reward}"]
    return load_recipe(RlRecipe, None, [*given, "rollout.prompts_per_step=4", f"rollout.group_size={group}"])


def test_a_recipe_weighs_several_and_logs_each(own: Path, base: Path, tmp_path: Path) -> None:
    recipe = rl_recipe(base, f'{{"{own}:right"=2.0, "{own}:short"=0.25}}')
    run_rl(recipe, tmp_path / "run")
    (line,) = map(json.loads, (tmp_path / "run" / METRICS).read_text().splitlines())
    assert line["rewards/right/mean"] == 1.0 and line["rewards/right/std"] == 0.0
    assert line["reward"] == pytest.approx(2 + 0.25 * line["rewards/short/mean"], abs=1e-5)
    assert stored_task(tmp_path / "run") == SudokuTask(), "an evaluation runs none of them"


def test_the_tasks_own_reward_may_be_one_of_them(own: Path) -> None:
    task = build_task(Gsm8kTask(kind="gsm8k", reward={"d1": 0.5, f"{own}:right": 2.0}, source="absent.jsonl"))
    assert isinstance(task, WithReward)
    problem = Problem("p", "?", "", "c", {"gold": "7"})
    perfect = "<reasoning>\nx\n</reasoning>\n<answer>\n\\boxed{7}\n</answer>\n"
    assert task.grade(problem, perfect).reward == 0.5 * 4.0 + 2.0


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        ("{}", "should name a reward"),
        ("{'a.py:f'=0}", "gives a.py:f the weight 0; give one from -1e+06 to 1e+06, not 0"),
        ("{'a.py:f'=nan}", "should be a finite number, got nan"),
        ("{'a.py'=1}", "should be a function of your own, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, got 'a.py'"),
        ("{'a.py:f'='x'}", "task.reward"),
    ],
)
def test_weights_that_are_none_are_refused(reward: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(RlRecipe, None, ["base=x", "budget.steps=1", f"task.reward={reward}"])
    assert told in str(caught.value)


def test_a_first_step_in_which_all_fail_ends_the_run(
    own: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        run_rl(rl_recipe(base, f"{own}:quits"), tmp_path / "run")
    told = str(caught.value)
    assert "failed on all 8 completions of the run's first step, so nothing was trained" in told
    assert "the reward quits raises SystemExit: 0" in told and ".py, line " in told and "\n" not in told
    assert "Traceback" in capsys.readouterr().err


def test_a_recipe_says_how_long_a_reward_may_take(own: Path, base: Path, tmp_path: Path) -> None:
    recipe = rl_recipe(base, f"{own}:waits")
    task = recipe.task.model_copy(update={"reward_seconds": 0.4})
    with pytest.raises(UserError) as caught:
        run_rl(recipe.model_copy(update={"task": task}), tmp_path / "run")
    assert "the reward waits does not return within 0.05 s on problem" in str(caught.value)


def test_a_failure_is_shown_once_with_its_cause(
    own: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_rl(rl_recipe(base, f"{own}:fussy", steps=3), tmp_path / "run")
    told = capsys.readouterr().out
    assert told.count("of the first: the reward fussy raises ValueError: an odd number of clues on problem") == 1
    assert told.count('raise ValueError("an odd number of clues")') == 1


def test_a_reward_that_never_differs_is_told_with_an_example(
    own: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_rl(rl_recipe(base, f"{own}:right", steps=9), tmp_path / "nine")
    assert "earned the same" not in capsys.readouterr().out
    run_rl(rl_recipe(base, f"{own}:right", steps=11), tmp_path / "eleven")
    told = capsys.readouterr().out
    assert told.count("in 10 steps on end all completions of each prompt earned the same (on average 1)") == 1
    assert "and at a completion, '" in told
