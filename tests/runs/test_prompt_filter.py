"""Prompts that are too long: left out and counted in training and evaluation, one sentence where all of them are."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import published
from tests.helpers.chat_templates import LLADA as TEMPLATE
from tests.helpers.chat_templates import tokenizer_with

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.evaluation.run import run_eval
from diffpo.models.chat import encode_prompt, turn_end_ids
from diffpo.models.dream import DreamConfig
from diffpo.models.llada import LLaDAConfig
from diffpo.models.loading import load_tokenizer
from diffpo.models.model_paths import METRICS
from diffpo.models.tokenizer import char_tokenizer, encode_text
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import EvalRecipe, Gsm8kTask, RlRecipe, SftRecipe, SudokuTask
from diffpo.runs.prompt_filter import PromptFilter, draw_problems, filter_long_prompts
from diffpo.sampling.policy import load
from diffpo.tasks.base import Problem, Task
from diffpo.tasks.families import TASK_FAMILIES
from diffpo.tasks.sudoku import Sudoku
from diffpo.tasks.text import TextTask
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

ROWS = 400
FRAME = 23
"""Of LLaDA's template, where each character is a token: 6 marks, user, assistant and two empty lines."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Questions of 10 to 29 characters, in no order."""
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"question": f"{i:04d}: {'?' * (4 + i * 7 % 20)}", "answer": f"#### {i}"} for i in range(ROWS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def task(data: str) -> TextTask:
    return TextTask(TASK_FAMILIES["gsm8k"], data, completion_length=16, instructions="")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "llada"
    published.write_folder(folder, published.LLADA)
    return folder


def fitting(task: Task, question: int) -> PromptFilter:
    return PromptFilter(task, tokenizer_with(TEMPLATE), FRAME + question)


# --- which problems


@pytest.mark.parametrize("limit", [10, 11, 17, 28])
def test_the_first_that_fit_in_the_same_order(limit: int, task: TextTask) -> None:
    for seed in (0, 1) if limit == 11 else (2,):
        everything = task.problems("train", 4 * ROWS, seed)
        fit = [place for place, problem in enumerate(everything) if len(problem.prompt) <= limit]
        for count in (1, 2, 40):
            found, left_out = fitting(task, limit).draw("train", count, seed)
            assert (
                found
                == [everything[place] for place in fit[:count]]
                == fitting(task, limit).problems("train", count, seed)
            )
            assert left_out == fit[count - 1] + 1 - count


def test_train_prompts_that_fit_repeat(task: TextTask) -> None:
    found, left_out = fitting(task, 10).draw("train", 100, seed=0)
    shortest = [question for question in task.questions("train") if len(question.text) == 10]
    assert len(found) == 100 > len(shortest) == len({problem.id for problem in found})
    assert left_out > ROWS


def test_other_splits_end(task: TextTask) -> None:
    questions = task.questions("test")
    fit = {question.text for question in questions if len(question.text) <= 15}
    assert 0 < len(fit) < len(questions)
    found, left_out = fitting(task, 15).draw("test", 300, seed=0)
    assert {problem.prompt for problem in found} == fit and len(found) == len(fit)
    assert left_out == len(questions) - len(fit)


def test_where_nothing_is_too_long_nothing_changes(task: TextTask) -> None:
    for split in ("train", "test"):
        assert draw_problems(fitting(task, 29), split, 50, 3) == draw_problems(task, split, 50, 3)
        assert draw_problems(task, split, 50, 3) == (task.problems(split, 50, 3), 0)


def test_where_nothing_fits_the_shortest_is_told(task: TextTask) -> None:
    for split in ("train", "test"):
        message = f"gsm8k: no {split} prompt fits into 32 tokens, the shortest has 33; raise task.max_prompt_tokens"
        with pytest.raises(UserError, match=message):
            fitting(task, 9).problems(split, 3, seed=0)


def test_answers_that_a_completion_has_no_room_for_are_left_out(task: TextTask) -> None:
    """One such row once ended a run at the first step that drew it."""
    whole = fitting(task, 29)
    sizes = [len(encode_text(whole.tokenizer, p.answer)) for p in task.problems("train", 50, 3)]
    end = len(turn_end_ids(whole.tokenizer))
    found, left_out = replace(whole, longest_answer=min(sizes) + end).draw("train", 20, 3)
    assert len(found) == 20 and {len(encode_text(whole.tokenizer, p.answer)) for p in found} == {min(sizes)}
    assert left_out > 0 and min(sizes) + 1 in sizes, "else one token too many would not be seen"
    with pytest.raises(UserError, match=r"which fits has at most 1 tokens; raise task\.completion_length"):
        replace(whole, longest_answer=1).draw("train", 3, 3)


def test_it_is_a_task(task: TextTask) -> None:
    wrapped = fitting(task, 12)
    assert isinstance(wrapped, Task)
    assert (wrapped.name, wrapped.alphabet, wrapped.completion_length) == (task.name, task.alphabet, 16)
    problem = Problem("hand", "?", "", "hand", {"gold": "18"})
    assert wrapped.grade(problem, "<answer>18</answer>").is_solved


# --- how much is too long


@pytest.mark.parametrize(("family", "positions"), [("LLaDA", 4096), ("Dream", 131072)])
def test_a_published_config_says_it(family: str, positions: int, task: TextTask, data: str, tmp_path: Path) -> None:
    one = published.PUBLISHED[family]
    published.write_folder(tmp_path, one)
    config = one.config_class(**one.config)
    tokenizer = load_tokenizer(tmp_path, config)
    recipe = Gsm8kTask(kind="gsm8k", source=data, completion_length=16)
    found = filter_long_prompts(task, recipe, config, tokenizer)
    assert isinstance(found, PromptFilter) and found.limit == positions - 16
    own = filter_long_prompts(task, recipe.model_copy(update={"max_prompt_tokens": 20}), config, tokenizer)
    assert isinstance(own, PromptFilter) and own.limit == 20


def test_a_tiny_model_takes_as_much_as_it_does_when_served(task: TextTask) -> None:
    tokenizer = char_tokenizer(task.alphabet)
    found = filter_long_prompts(task, Gsm8kTask(kind="gsm8k"), LLaDAConfig(), tokenizer)
    assert isinstance(found, PromptFilter) and found.limit == 1024 - task.completion_length
    sudoku = Sudoku()
    assert filter_long_prompts(sudoku, SudokuTask(), DreamConfig(), tokenizer) is sudoku


# --- the loops


def settings(data: str, *more: str) -> list[str]:
    source = f"task={{kind='gsm8k', source={json.dumps(data)}, completion_length=32, instructions=''"
    return [", ".join([source, *more]) + "}", "threads=1"]


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("seconds")} for line in found]


def test_training_counts_what_it_leaves_out(
    data: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokenizer has a token for each byte, and no template."""
    small = ["rollout.prompts_per_step=3", "rollout.group_size=2", "objective.num_iterations=1", "budget.steps=2"]
    at = f"base={json.dumps(str(base))}"

    def rl(out: str, *task: str) -> list[dict[str, Any]]:
        run_rl(load_recipe(RlRecipe, None, [*settings(data, *task), at, *small]), tmp_path / out)
        return lines(tmp_path / out)

    assert rl("free") == rl("wide", "max_prompt_tokens=29")
    assert not any("prompts_too_long" in line for line in lines(tmp_path / "free"))
    assert "warning" not in capsys.readouterr().out
    narrow = rl("narrow", "max_prompt_tokens=12")
    assert all(line["prompts_too_long"] >= 1 for line in narrow)
    said = capsys.readouterr().out
    assert said.count("warning") == 1
    assert f"warning: {narrow[0]['prompts_too_long']:g} prompts were longer than the model or task.max_prompt" in said

    sft = [at, "batch=8", "steps=2", "max_prompt_tokens=12"]
    run_sft(load_recipe(SftRecipe, None, [*settings(data, sft.pop()), *sft]), tmp_path / "sft")
    assert all(line["rows_too_long"] >= 1 for line in lines(tmp_path / "sft"))
    assert capsys.readouterr().out.count("warning") == 1


def test_evaluation_says_what_it_leaves_out(data: str, base: Path, task: TextTask, tmp_path: Path) -> None:
    def record(limit: int) -> tuple[dict[str, Any], str]:
        out = tmp_path / f"{limit}.json"
        more = [f"model={json.dumps(str(base))}", "bounds=[9.0]", "count=500"]
        said = run_eval(load_recipe(EvalRecipe, None, [*settings(data, f"max_prompt_tokens={limit}"), *more]), out)
        return json.loads(out.read_text()), said

    tokenizer = load(base).tokenizer
    lengths = [len(encode_prompt(tokenizer, question.text)) for question in task.questions("test")]
    num_fit = sum(length <= 15 for length in lengths)
    found, said = record(15)
    assert found["points"][0]["n"] == len(found["clusters"]) == num_fit
    assert found["prompts_too_long"] == len(lengths) - num_fit > 0
    assert f"{len(lengths) - num_fit}, left out of all of this; {num_fit} were measured" in said
    found, said = record(29)
    assert found["prompts_too_long"] == 0 and "left out" not in said


@pytest.mark.parametrize("verb", ["rl", "sft"])
def test_a_run_without_a_prompt_leaves_no_folder(
    verb: str, data: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ["d1", f"base={json.dumps(str(base))}"] if verb == "rl" else ["walk-base"]
    with pytest.raises(SystemExit) as caught:
        main([verb, *recipe, *settings(data, "max_prompt_tokens=9"), "--out", str(tmp_path / "run")])
    assert caught.value.code == 2 and not (tmp_path / "run").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "no train prompt fits into 9 tokens, the shortest has 10; raise task.max_prompt_tokens" in line


def test_rows_longer_than_the_models_positions_are_refused(base: Path, data: str, tmp_path: Path) -> None:
    task = f"task={{kind='gsm8k', source={json.dumps(data)}}}"
    recipe = load_recipe(SftRecipe, None, [task, f"base={json.dumps(str(base))}", "sequence_length=9999"])
    with pytest.raises(UserError, match="sequence_length 9999 is more than the 4096 that the model takes; lower it"):
        run_sft(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


OWN = """
from diffpo import Grade, Problem

class Own:
    name, alphabet, completion_length = "own", "0123456789", 4

    def problems(self, split, count, seed):
        return [Problem(f"{{split}}-{{i}}", {prompt}, {answer}, f"c{{i}}") for i in range(count)]

    def grade(self, problem, completion):
        return Grade(0.0, {{"solved": 0.0}})
"""


@pytest.mark.parametrize(
    ("prompt", "answer", "told"),
    [
        (
            "'12' if i < 9 else '1\u00e9'",
            "'1234'",
            r"own, problem 'train-9': .* the text has others: 'é' \(U\+00E9\); remove",
        ),
        ("'12'", "'12x4'", r"own, problem 'train-0': .* the text has others: 'x'; remove"),
        ("'12'", "'12345'", "no train answer that goes with a prompt which fits has at most 4 tokens"),
    ],
)
def test_problems_of_ones_own_that_a_tiny_model_cannot_take_leave_no_folder(
    prompt: str, answer: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN.format(prompt=prompt, answer=answer))
    recipe = load_recipe(SftRecipe, None, [f"task={{kind='{tmp_path}/own.py:Own'}}", "steps=1", "threads=1"])
    with pytest.raises(UserError, match=told):
        run_sft(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_answers_of_ones_own_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.format(prompt="'12'", answer="'1234' if i % 2 else '12345'"))
    recipe = load_recipe(SftRecipe, None, [f"task={{kind='{tmp_path}/own.py:Own'}}", "steps=1", "batch=4", "threads=1"])
    with suppress(UserError):
        run_sft(recipe, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    assert log.exists(), "the step has ended the run"
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["rows_too_long"] == 4


def test_a_tiny_model_of_another_task_is_named(tmp_path: Path) -> None:
    walk = char_tokenizer("abcdefgh,:>")
    recipe = SudokuTask()
    with pytest.raises(UserError, match=r"trained on another task than sudoku4: its tokenizer lacks .* set the task"):
        filter_long_prompts(Sudoku(), recipe, LLaDAConfig(vocab_size=len(walk)), walk)
