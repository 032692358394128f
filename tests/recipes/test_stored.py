"""Options of the task of the run that a model is of."""

from pathlib import Path

import pytest

from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.stored import over_stored_task
from diffpo.recipes.tables import EvalRecipe, SftRecipe

TASK = "task={kind='gsm8k', source='rows.jsonl', completion_length=64, instructions='', reward={'a.py:f'=0.5}}"


@pytest.fixture
def run(tmp_path: Path) -> str:
    (tmp_path / "recipe.toml").write_text(dump_recipe(load_recipe(SftRecipe, None, [TASK, "steps=1"])))
    return str(tmp_path)


def task_of(run: str, *overrides: str) -> dict[str, object]:
    recipe = load_recipe(EvalRecipe, None, [*over_stored_task(run, None, overrides), "model=x"])
    return recipe.task.model_dump() if recipe.task is not None else {}


@pytest.mark.parametrize("kind", [[], ["task.kind=gsm8k"], ["task.kind='gsm8k'"]])
def test_an_option_of_a_runs_task_changes_that_option_alone(kind: list[str], run: str) -> None:
    """It made a task of the defaults, with other prompts and another length, and measured that in silence."""
    found = task_of(run, *kind, "task.test_source=other.jsonl")
    assert found["kind"] == "gsm8k" and found["test_source"] == "other.jsonl" and found["source"] == "rows.jsonl"
    assert (found["completion_length"], found["instructions"], found["reward"]) == (64, "", "correct")
    assert task_of(run, *kind, "task.completion_length=8")["completion_length"] == 8


def test_a_whole_task_another_kind_and_no_run_are_left_alone(run: str, tmp_path: Path) -> None:
    for given in (["task={kind='walk'}"], ["task.kind=walk"], ["count=3"], []):
        assert over_stored_task(run, None, given) == given
    assert over_stored_task(run, "some.toml", ["task.few_shot=1"]) == ["task.few_shot=1"]
    assert over_stored_task(str(tmp_path / "absent" / "model"), None, ["task.size=6"]) == ["task.size=6"]
