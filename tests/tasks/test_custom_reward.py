"""Rewards of one's own that a recipe names: loaded without torch, checked before a model is, told where they fail."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.core.user_code import is_user_code
from diffpo.evaluation.run import run_eval
from diffpo.models.model_paths import METRICS
from diffpo.recipes import load_recipe
from diffpo.recipes.stored import stored_task
from diffpo.recipes.tables import EvalRecipe, RlRecipe, SftRecipe
from diffpo.recipes.tasks import build_task
from diffpo.sampling.answering import answer_bounds, answer_problems, drawings
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import load
from diffpo.sampling.rules import EntropyBound
from diffpo.tasks.base import Drawn, Problem, grade_all
from diffpo.tasks.custom_reward import WeightedReward, WithReward, load_reward
from diffpo.tasks.sudoku import Sudoku
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

CODE = """
from __future__ import annotations
from dataclasses import dataclass

with open(__file__ + ".log", "a") as log:
    log.write("run")

@dataclass
class Weights:
    share: float = 0.5

def brevity(prompts, completions, **columns):
    return [Weights().share - len(text) / 100 for text in completions]

def by_clues(completions, clues):
    return [float(number) for number in clues]

def by_level(completions, level):
    return [1.0 for _ in completions]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(CODE)
    return file


def test_a_function_may_spoil_its_lists_and_no_other_sees_it() -> None:
    problems = [Problem(f"p{n}", f"{n}>", "a", f"c{n}", facts={"tag": n}) for n in range(2)]

    def greedy(**columns: list[Any]) -> list[float]:
        for values in columns.values():
            values.clear()
        return [1.0, 1.0]

    def careful(completions: list[str], tag: list[int], nfe: list[int]) -> list[float]:
        return [len(text) + 10 * own + 100.0 * calls for text, own, calls in zip(completions, tag, nfe, strict=True)]

    rewards = tuple(WeightedReward(function, function.__name__) for function in (greedy, careful))
    drawn = [Drawn((1,), (0,), 1), Drawn((2, 3), (0, 1), 2)]
    grades = WithReward(Sudoku(), rewards, seconds=10.0).grade_all(problems, ["a", "bc"], drawn)
    assert [(grade.failure, grade.reward) for grade in grades] == [("", 102.0), ("", 213.0)]


@pytest.mark.parametrize("name", ["a.py:f", "../a b/c.py:f_1", "C:/a.py:f", "package.module:function", "m:f"])
def test_names_of_functions(name: str) -> None:
    assert is_user_code(name)


@pytest.mark.parametrize("name", ["correct", "d1", "a.py", "a.py:", ":f", "a.py:f()", "a b:f", "a.py:1f", "None"])
def test_what_is_no_name_of_a_function(name: str) -> None:
    assert not is_user_code(name)


@pytest.mark.parametrize("kind", ["sudoku", "countdown", "walk", "gsm8k"])
def test_a_recipe_names_a_function_of_a_file(kind: str, own: Path) -> None:
    recipe = load_recipe(SftRecipe, None, [f"task={{kind='{kind}', reward='{own}:brevity'}}"]).task
    task = build_task(recipe)
    assert (
        isinstance(task, WithReward) and task.task.name == build_task(recipe.model_copy(update={"reward": None})).name
    )
    assert task.grade(Problem("hand", "?", "", "hand", {"clues": 3}), "1234567").reward == pytest.approx(0.43)
    assert build_task(recipe) == task
    assert Path(f"{own}.log").read_text() == "run", "a file is run once"


def test_a_function_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rewards_here").mkdir()
    (tmp_path / "rewards_here" / "some.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_reward("rewards_here.some:by_level")(completions=["a", "b"], level=[1, 2]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (None, "{file}:f", "the reward's file {file} is not there; give FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION"),
        (CODE, "{file}:g", "names a function that {file} does not have, g; it has brevity, by_clues, by_level"),
        ("f = 3", "{file}:f", "names a function that {file} does not have, f; it has none"),
        ("1 / 0", "{file}:f", "cannot be imported (ZeroDivisionError: division by zero); mend {file}, or name"),
        ("import sys; sys.exit(3)", "{file}:f", "cannot be imported (SystemExit: 3)"),
        ("def f(:", "{file}:f", "cannot be imported (SyntaxError: "),
        (None, "no_such_package.rewards:f", "cannot be imported (ModuleNotFoundError: No module named 'no_such_pack"),
    ],
)
def test_a_function_that_cannot_be_had_is_told_before_all_else(
    text: str | None, name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spoilt.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["rl", "d1", "base=absent", f"task.reward={name.format(file=file)}", "--out", str(tmp_path / "run")])
    assert caught.value.code == 2 and not (tmp_path / "run").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert told.format(file=file) in line


def test_a_column_that_it_needs_is_named_without_torch(own: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from diffpo.cli.main import main
try:
    main(["rl", "d1", "--out", "{tmp_path / "out"}", "base=absent", "task.reward={own}:by_level"])
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr == (
        "diffpo: sudoku4: the reward by_level needs column 'level', which the data lack; there are clues\n"
    )


def test_a_run_learns_from_it_and_an_evaluation_does_not_run_it(own: Path, tmp_path: Path) -> None:
    small = ["threads=1", "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.mlp_hidden_size=16"]
    run_sft(load_recipe(SftRecipe, None, [*small, "steps=1", "batch=4"]), tmp_path / "base")
    rl = [f"task.reward={own}:by_clues", f"base={json.dumps(str(tmp_path / 'base'))}", "budget.steps=1", "threads=1"]
    recipe = load_recipe(RlRecipe, None, [*rl, "rollout.prompts_per_step=3", "rollout.group_size=2"])
    run_rl(recipe, tmp_path / "run")
    (line,) = map(json.loads, (tmp_path / "run" / METRICS).read_text().splitlines())
    assert line["reward"] >= 4 and line["reward"] * 3 == pytest.approx(round(line["reward"] * 3)), "a mean of clues"
    own.unlink()
    assert stored_task(tmp_path / "run") == recipe.task.model_copy(update={"reward": None})
    model = f"model={json.dumps(str(tmp_path / 'run'))}"
    run_eval(load_recipe(EvalRecipe, None, [model, "count=2", "bounds=[9.0]", "threads=1"]), tmp_path / "eval.json")


def test_a_reward_that_is_no_function_is_refused() -> None:
    with pytest.raises(UserError, match="that json does not have, nothing; it has dump, dumps, detect_encoding, load"):
        load_reward("json:nothing")


def test_how_a_completion_was_drawn_is_offered() -> None:
    seen: list[tuple[object, ...]] = []

    def reward(
        completions: list[str], completion_ids: list[list[int]], unmask_step: list[list[int]], nfe: list[int]
    ) -> list[float]:
        seen.append((completions, completion_ids, unmask_step, nfe))
        if "b" in completions and len(completions) > 1:
            raise KeyError
        return [float(calls) for calls in nfe]

    task = WithReward(Sudoku(), (WeightedReward(reward, "reward"),), 60.0)
    problems = [Problem("p", "?", "", "c", {"nfe": 99, "completions": "a column"})] * 2
    drawn = [Drawn((7, 8), (1, 0), 2), Drawn((9,), (4,), 5)]
    assert [grade.reward for grade in grade_all(task, problems, ["a", "b"], drawn)] == [2.0, 5.0]
    assert seen == [
        (["a", "b"], [[7, 8], [9]], [[1, 0], [4]], [2, 5]),
        (["a"], [[7, 8]], [[1, 0]], [2]),
        (["b"], [[9]], [[4]], [5]),
    ], "also where it is asked for each alone"
    seen.clear()
    assert task.grade(problems[0], "ab").reward == 2.0
    assert seen == [(["ab"], [[97, 98]], [[0, 1]], [2])], "a text that was not drawn"


def test_the_drawing_ends_with_the_first_stop_token(base: Path) -> None:
    policy = load(base)
    task = Sudoku(4, 13, 15)
    problems = task.problems("test", 3, seed=0)
    rollout, _ = answer_problems(policy, task, problems, Decoding(EntropyBound(1.0), 16, 16))
    ends = torch.arange(16) < torch.tensor([[4], [16], [1]])
    found = drawings(replace(rollout, is_answer=ends))
    assert [len(one.completion_ids) for one in found] == [len(one.unmask_step) for one in found] == [4, 16, 1]
    assert list(found[1].completion_ids) == rollout.completion_ids[1].tolist()
    assert list(found[0].unmask_step) == rollout.unmask_step[0, :4].tolist()
    assert [one.nfe for one in found] == rollout.nfe.tolist()


def test_of_equal_completions_the_first_one_is_graded_by_its_own_drawing(base: Path) -> None:
    policy = load(base)
    counted: list[tuple[list[int], list[list[int]]]] = []

    def calls(nfe: list[int], completion_ids: list[list[int]]) -> list[float]:
        counted.append((nfe, completion_ids))
        return [float(number) for number in nfe]

    task = WithReward(Sudoku(4, 13, 15), (WeightedReward(calls, "calls"),), 60.0)
    problems = task.problems("test", 4, seed=0)
    answers = answer_bounds(policy, task, problems, Decoding(EntropyBound(1.0), 16, 16), [9.0, 0.0])
    first: dict[tuple[int, str], int] = {}
    for rollout, grades in answers:
        for row, (ids, nfe, grade) in enumerate(zip(rollout.completion_ids, rollout.nfe, grades, strict=True)):
            expected = first.setdefault((row, str(ids.tolist())), int(nfe))
            assert grade.reward == expected
    assert len(counted) == 1 and len(counted[0][0]) == len(first)
