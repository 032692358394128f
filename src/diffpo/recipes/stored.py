"""What a command on a trained model needs to know of it before it is loaded. Imports no torch."""

import tomllib
from pathlib import Path

from pydantic import TypeAdapter

from diffpo.core.errors import UserError
from diffpo.models.hub import check_model_path
from diffpo.models.model_paths import RECIPE, model_folder
from diffpo.recipes.tables import EvalRecipe, TaskRecipe, block_problems, cache_problems, grading_problems
from diffpo.recipes.tasks import checked_task
from diffpo.tasks.custom_reward import is_reward_name

TASK_HINT = "task.size=4 or 6, or task.kind=countdown, walk or another"
_STORED_TASK: TypeAdapter[TaskRecipe] = TypeAdapter(TaskRecipe)


def evaluated_task(recipe: EvalRecipe) -> TaskRecipe:
    """The task to evaluate on. Raises UserError for what is wrong with it, its data, or the model's place.

    What needs no model is said first, then a model of the hub is fetched.
    """
    path = _known_place(recipe.model)
    task = recipe.task or stored_task(path)
    blocks = block_problems("block_length", recipe.block_length, task)
    caches = cache_problems("", recipe.cache, recipe.block_length, task)
    if problems := [*grading_problems("evaluation", task), *blocks, *caches]:
        raise UserError(problems[0])
    checked_task(task, recipe.split)
    model_folder(path)
    return task


def sampled_length(model: str | Path, length: int | None) -> int:
    """Tokens of a completion: as asked for, or as in training. Raises UserError as `evaluated_task` does."""
    path = _known_place(model)
    if length is None:
        length = stored_task(path, "--length, the tokens of the completion").completion_length
    model_folder(path)
    return length


def stored_task(path: Path, hint: str = TASK_HINT) -> TaskRecipe:
    """The task in the recipe of the run that `path` is or belongs to. Raises UserError saying what to give instead.

    A reward of the user's own is left out: what is solved does not depend on it, and to measure a model runs no code
    that a folder names.
    """
    for folder in (path.resolve(), path.resolve().parent):
        if (folder / RECIPE).is_file():
            try:
                table = tomllib.loads((folder / RECIPE).read_text())
                task = {"kind": "sudoku"} | table.get("task", {})
                if is_reward_name(str(task.get("reward"))):
                    del task["reward"]
                return _STORED_TASK.validate_python(task)
            except (ValueError, TypeError) as error:
                line = str(error).splitlines()[0]
                raise UserError(f"{folder / RECIPE} does not say which task: {line}; give {hint}") from error
    raise UserError(f"no {RECIPE} says which task {path} was trained on; give {hint}")


def _known_place(model: str | Path) -> Path:
    """A folder that holds a model, or a hub name, which is not asked for yet."""
    check_model_path(str(model))
    path = Path(model)
    if path.exists():
        model_folder(path)  # a folder that holds none does not say which task, either
    return path
