"""Where a recipe's task becomes a task; the other parts do in `recipes/parts.py`. Imports no torch."""

from pathlib import Path
from typing import get_args

from diffpo.models.model_paths import base_folder
from diffpo.recipes import tables
from diffpo.tasks.base import Split, Task
from diffpo.tasks.countdown import Countdown
from diffpo.tasks.custom_reward import WithReward, load_reward
from diffpo.tasks.datasets import is_elsewhere
from diffpo.tasks.families import FAMILIES
from diffpo.tasks.s1k import S1K
from diffpo.tasks.sudoku import Sudoku
from diffpo.tasks.text import Reward, TextTask
from diffpo.tasks.walk import Walk


def task_of(recipe: tables.TaskRecipe) -> Task:
    """The task, with the user's own reward if the recipe names one, whose code is run for it."""
    task = _own_task_of(recipe)
    if isinstance(recipe, tables.S1kTask) or recipe.reward is None or recipe.reward in get_args(Reward):
        return task
    return WithReward(task, load_reward(recipe.reward))


def _own_task_of(recipe: tables.TaskRecipe) -> Task:
    match recipe:
        case tables.SudokuTask():
            return Sudoku(recipe.size, recipe.min_clues, recipe.max_clues, recipe.cell_credit)
        case tables.CountdownTask():
            return Countdown(recipe.max_number, recipe.max_target, recipe.operators, recipe.number_credit)
        case tables.WalkTask():
            return Walk(recipe.successors, recipe.length, recipe.step_credit)
        case tables.S1kTask():
            return TextTask(
                S1K,
                recipe.source,
                completion_length=recipe.completion_length,
                instructions=recipe.instructions,
            )
        case tables.TextSettings():
            return TextTask(
                FAMILIES[recipe.kind],
                recipe.source,
                recipe.test_source,
                recipe.few_shot,
                "d1" if recipe.reward == "d1" else "correct",
                recipe.completion_length,
                recipe.instructions,
            )


def downloads(recipe: tables.TaskRecipe) -> list[str]:
    """The data sets of the hub that its rows come from."""
    task = _own_task_of(recipe)
    sources = task.sources if isinstance(task, TextTask) else ()
    return [source for source in sources if source is not None and is_elsewhere(source)]


def check_inputs(recipe: tables.SftRecipe | tables.RlRecipe) -> None:
    """Look at the data and for the model without torch: a mistake in either is said at once. Fetches what is away."""
    checked_task(recipe.task, "train")
    if recipe.base is not None:
        base_folder(Path(recipe.base))


def checked_task(recipe: tables.TaskRecipe, split: Split) -> Task:
    """The task, once its data have been read: what is wrong with them is said before a model is loaded."""
    task = task_of(recipe)
    task.problems(split, 1, seed=0)
    return task
