"""`diffpo check`: three rows through template, tokenizer, grader and rewards, and what is wrong in words."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from diffpo.cli.check_command import say_next_of_check
from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.recipes.training_recipe import load_training_recipe

ROOT = Path(__file__).parents[2]
REWARDS = """
def good(completions, answer, **columns):
    return [float(text == right) for text, right in zip(completions, answer)]

def half(completions, **columns):
    return [0.5 for _ in completions]

def short_list(completions, **columns):
    return [1.0]

def text(completions, **columns):
    return ["high" for _ in completions]

def nan(completions, **columns):
    return [float("nan") for _ in completions]

def raises(completions, **columns):
    raise KeyError("x")

def lacks(completions, rubric):
    return [0.0 for _ in completions]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARDS)
    write([{"q": f"say {n}", "answer": str(n)} for n in range(60)])
    return tmp_path


def write(rows: Sequence[dict[str, Any]]) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def checked(capsys: pytest.CaptureFixture[str], *task: str) -> tuple[object, str]:
    """Write a recipe of these lines and check it; return the exit code and what was printed."""
    Path("my.toml").write_text('[task]\nkind = "text"\nsource = "rows.jsonl"\nprompt = "q"\n' + "\n".join(task) + "\n")
    with pytest.raises(SystemExit) as caught:
        main(["check", "my.toml", "task.completion_length=8"])
    found = capsys.readouterr()
    return caught.value.code or 0, found.out + found.err


@pytest.mark.usefixtures("here")
def test_three_rows_are_shown_with_what_each_reward_gives(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = checked(capsys, 'reward = { correct = 1.0, "rewards.py:good" = 2.0, "rewards.py:half" = -0.5 }')
    assert code == 2 and "the reward half gives 0.5 to everything, gold answers and garbage alike" in text
    code, text = checked(capsys, 'reward = { correct = 1.0, "rewards.py:good" = 2.0 }')
    assert code == 0, text
    assert text.count("# text-train-") == 3 and text.count("prompt (") == 3
    assert "\n                  solved  reward  good\n" in text
    assert text.count("\n  its answer      yes     3       1\n") == 3
    assert text.count("\n  an empty text   no      0       0\n") == 3
    assert text.count("\n  another answer  no      0       0\n") == 3
    assert (
        "train, " in text
        and "\nnothing is wrong that a look at 3 rows can see\nnext: diffpo sft tiny-base+my.toml " in text
    )


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        ("short_list", "the reward short_list returns 1 values for 3 completions; return a number for each of them"),
        ("text", "the reward text gives 'high' on problem 'text-train-47'"),
        ("nan", "the reward nan gives nan on problem 'text-train-47'"),
        ("raises", "the reward raises raises KeyError: 'x' on problem 'text-train-"),
        ("half", "the reward is the same, 0.5 (half), for gold answers, for empty texts and for the prompts"),
        ("lacks", "the reward lacks needs column 'rubric', which the data lack; there are q, answer"),
        ("none", "names a function that rewards.py does not have, none; it has good, half"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_reward_that_cannot_be_used(reward: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = checked(capsys, f'reward = "rewards.py:{reward}"')
    assert code == 2 and told in text


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['template = "{question}"'], "rows.jsonl:1: task.template names column 'question', which is not there; there"),
        (['grader = "numbr"'], "task.grader: should be 'exact', 'number', 'math', 'regex' or 'none', got 'numbr'"),
        (['answer = "gold"'], "task.answer names column 'gold', which is not there; there are q, answer"),
        (['answer_template = "the answer is {answer}"'], "60 of the 60 gold answers looked at have more tokens"),
        (['grader = "none"', 'answer = "gold"'], "has no answer to learn from"),
    ],
)
@pytest.mark.usefixtures("here")
def test_data_and_options_that_do_not_fit(lines: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = checked(capsys, *lines, "test_share = 0.0", "validation_share = 0.0")
    assert code == 2 and told in text


@pytest.mark.usefixtures("here")
def test_a_task_without_a_grader_is_no_fault_where_answers_are_learned(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = checked(capsys, 'grader = "none"')
    assert code == 0 and "nothing grades this task" in text and "solved" not in text


@pytest.mark.usefixtures("here")
def test_rows_of_other_splits_are_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = checked(capsys, "validation_share = 0.0")
    assert code == 0 and "none for validation" in text and "- text: rows.jsonl has no rows for the validation" in text
    Path("more.jsonl").write_text('{"q": "say", "gold": "it"}\n')
    code, text = checked(capsys, 'test_source = "more.jsonl"')
    assert code == 2 and "more.jsonl:1: task.answer names column 'answer', which is not there; there are q" in text


def test_the_keys_tell_whose_recipe_it_is(here: Path) -> None:
    (here / "rl.toml").write_text('base = "x"\n[budget]\nsteps = 1\n')
    assert isinstance(load_training_recipe("rl.toml", []), RlRecipe)
    assert isinstance(load_training_recipe("tiny-d1", ["base=x", "budget.steps=1"]), RlRecipe)
    assert isinstance(load_training_recipe("sudoku4-base", []), SftRecipe)
    (here / "task.toml").write_text('[task]\nkind = "walk"\n')
    assert isinstance(load_training_recipe("task.toml", []), SftRecipe)
    assert isinstance(load_training_recipe("task.toml", ["base=x", "budget.steps=1"]), RlRecipe)
    assert isinstance(load_training_recipe("task.toml", ["base=x", "budget.steps=1"], "rl"), RlRecipe)
    with pytest.raises(UserError, match="no recipe is for 'train'; give sft or rl"):
        load_training_recipe("task.toml", [], "train")


NEXT_SFT = "diffpo sft tiny-base+task.toml"
NEXT_RL = "diffpo rl tiny-diffpo+task.toml base=runs/base budget.denoiser_calls=15000"


def test_what_is_next_is_what_the_tutorial_does() -> None:
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    assert f"\n{NEXT_SFT} --out runs/base\n" in tutorial and f"\n{NEXT_RL} --out runs/diffpo\n" in tutorial


def next_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what `check` ends with: a command whose recipe can be read."""
    with pytest.raises(SystemExit) as caught:
        main(["check", *words])
    told = capsys.readouterr().err
    assert caught.value.code == 0, told
    _, _, verb, recipe, *overrides = shlex.split(told)
    wanted = {"sft": SftRecipe, "rl": RlRecipe}[verb]
    assert isinstance(load_training_recipe(recipe, [word for word in overrides if "=" in word], verb), wanted)
    return told


def test_what_is_next_is_a_command_that_works(here: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task alone is no recipe: it is joined to one, and its folder is not there yet."""
    (here / "runs/a").mkdir(parents=True)
    (here / "runs/base").symlink_to(base)
    digits = ["".join(str(n // 4**place % 4 + 1) for place in range(3)) for n in range(60)]  # those of the base
    write([{"q": text, "answer": text[0]} for text in digits])
    task = '[task]\nkind = "text"\nsource = "rows.jsonl"\nprompt = "q"\ncompletion_length = 4\n'
    Path("task.toml").write_text(task)
    Path("based.toml").write_text(f'base = "runs/base"\n{task}')
    assert next_of(capsys, "task.toml") == f"next: {NEXT_SFT} --out runs/b\n"
    assert next_of(capsys, "task.toml", "steps=9") == f"next: {NEXT_SFT} steps=9 --out runs/b\n"
    assert next_of(capsys, "task.toml", "base=runs/base") == f"next: {NEXT_RL} --out runs/b\n"
    assert next_of(capsys, "based.toml").startswith(
        "next: diffpo rl tiny-diffpo+based.toml budget.denoiser_calls=15000 "
    )
    as_sft = next_of(capsys, "task.toml", "base=runs/base", "--as", "sft")
    assert as_sft == "next: diffpo sft task.toml base=runs/base --out runs/b\n"
    ungraded = next_of(capsys, "task.toml", "base=runs/base", "task.grader=none")
    assert ungraded == "next: diffpo sft task.toml base=runs/base task.grader=none --out runs/b\n"


def test_a_base_that_needs_a_gpu_is_rehearsed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("task.toml").write_text('[task]\nkind = "text"\nsource = "rows.jsonl"\nprompt = "q"\ncompletion_length = 4\n')
    words = ["base=GSAI-ML/LLaDA-8B-Instruct"]
    say_next_of_check("task.toml", words, load_training_recipe("task.toml", words), None)
    assert capsys.readouterr().err == f"next: diffpo rl diffpo+1gpu+task.toml {words[0]} --rehearse\n"
    load_training_recipe("diffpo+1gpu+task.toml", words, "rl")
