"""What a command on a trained model needs to know of it before it is loaded. Imports no torch."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.core.python_function import is_python_name
from diffpo.core.user_code import is_user_code
from diffpo.models.hub import check_model_path
from diffpo.models.model_paths import RECIPE, model_folder
from diffpo.recipes.strict import Strict, recipe_of
from diffpo.recipes.tables import (
    EvalRecipe,
    SamplerRecipe,
    SudokuTask,
    TaskRecipe,
    block_problems,
    cache_problems,
    grading_problems,
)
from diffpo.recipes.tasks import checked_task
from diffpo.tasks.base import Split
from diffpo.tasks.given_rows import ROWS

TASK_HINT = "task.size=4 or 6, or task.kind=countdown, walk or another"


class _Stored(Strict):
    """What is read of a stored recipe."""

    task: TaskRecipe = SudokuTask()


def over_stored_task(model: str, recipe: str | None, overrides: Sequence[str], unset: Sequence[str] = ()) -> list[str]:
    """Return overrides that change single options of the task of the run that `model` is or belongs to.

    `task.test_source=rows.jsonl` alone would be an option of the default task, and so would the keys that are `unset`.
    They stay as they are where a recipe is given, where a whole task or another kind is among them, and where there is
    no such run.
    """
    keys = {key.strip(): value.strip() for key, _, value in (override.partition("=") for override in overrides)}
    is_changed = any(key.startswith("task.") for key in (*keys, *unset))
    if recipe is not None or "task" in keys or not is_changed:
        return list(overrides)
    try:
        stored = stored_task(Path(model)).model_dump(exclude_none=True)
    except UserError:
        return list(overrides)
    if keys.get("task.kind", stored["kind"]).strip("'\"") != stored["kind"]:
        return list(overrides)
    return [*(f"task.{key}={json.dumps(value)}" for key, value in stored.items()), *overrides]


def evaluated_task(recipe: EvalRecipe) -> TaskRecipe:
    """Return the task to evaluate on. Raises UserError for what is wrong with it, its data, or the model's path.

    What needs no model is checked first, then a model of the hub is fetched.
    """
    path = _existing_path(recipe.model)
    task = recipe.task or stored_task(path)
    blocks = block_problems("block_length", recipe.block_length, task)
    caches = cache_problems("", recipe.cache, recipe.block_length, task)
    if problems := [*grading_problems("evaluation", task), *blocks, *caches]:
        raise UserError(problems[0])
    checked_task(task, recipe.split)
    if recipe.num_validation(task):
        checked_task(task, "validation")
    model_folder(path)
    return task


def fitted_task(recipe: SamplerRecipe) -> TaskRecipe:
    """Return the task to fit a sampler on. Raises UserError as `evaluated_task` does."""
    path = _existing_path(recipe.base)
    task = recipe.task or stored_task(path)
    blocks = block_problems("block_length", recipe.block_length, task)
    if problems := [*grading_problems("fitting a sampler", task), *blocks]:
        raise UserError(problems[0])
    splits: tuple[Split, ...] = ("train", "validation")
    for split in splits:
        checked_task(task, split)
    model_folder(path)
    return task


def sampled_length(model: str | Path, length: int | None) -> int:
    """Return the tokens of a completion: as asked for, or as in training. Raises UserError as `evaluated_task` does."""
    path = _existing_path(model)
    if length is None:
        length = stored_task(path, "--length, the tokens of the completion").completion_length
    model_folder(path)
    return length


def stored_task(path: Path, hint: str | None = None) -> TaskRecipe:
    """Return the task in the recipe of the run that `path` is or belongs to.

    No code that a folder names is run. A reward of the user's own is left out, as what is solved does not depend on it.
    Raises UserError where there is no task or one of the user's own; the message ends in `hint`, what to give instead.
    """
    for folder in (path.resolve(), path.resolve().parent):
        if (file := folder / RECIPE).is_file():
            try:
                task = tomllib.loads(file.read_text()).get("task", {})
            except ValueError as error:
                raise UserError(f"{file} does not say which task: {error}; give {hint or TASK_HINT}") from error
            kind = task.get("kind") if isinstance(task, dict) else None
            if is_user_code(kind):
                own = hint or f"task.kind={kind} with the task's options"
                raise UserError(f"{file} names a task of your own, {kind}, whose code only you can start; give {own}")
            reward = task.get("reward") if isinstance(task, dict) else None
            if isinstance(reward, dict) or is_user_code(reward) or is_python_name(reward):
                del task["reward"]
            if isinstance(task, dict) and isinstance(source := task.get("source"), str):
                task["source"] = _moved_rows(source, folder)
            try:
                return recipe_of(_Stored, {"task": task}, str(file)).task
            except UserError as error:
                told = "; ".join(line.strip() for line in str(error).splitlines()[1:])
                raise UserError(f"{file} does not say which task: {told}; give {hint or TASK_HINT}") from error
    raise UserError(f"no {RECIPE} says which task {path} was trained on; give {hint or TASK_HINT}")


def _moved_rows(source: str, folder: Path) -> str:
    """Return where the rows are that a run got from Python: in its folder, wherever that is now."""
    beside = folder / Path(source).name
    is_own = Path(source).name in (ROWS, f"{ROWS}.jsonl") and not Path(source).exists() and beside.exists()
    return str(beside) if is_own else source


def _existing_path(model: str | Path) -> Path:
    """Return a folder that holds a model, or a hub name, which is not asked for yet."""
    check_model_path(str(model))
    path = Path(model)
    if path.exists():
        model_folder(path)  # a folder that holds none does not say which task, either
    return path
