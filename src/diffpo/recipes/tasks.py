"""Where a recipe's task becomes a task; the other parts do in `recipes/parts.py`. Imports no torch."""

from diffpo.data import is_elsewhere
from diffpo.problem import Split, Task
from diffpo.recipes import schema
from diffpo.tasks.countdown import Countdown
from diffpo.tasks.families import FAMILIES
from diffpo.tasks.s1k import S1K
from diffpo.tasks.sudoku import Sudoku
from diffpo.tasks.text import TextTask
from diffpo.tasks.walk import Walk


def task_of(recipe: schema.TaskRecipe) -> Task:
    match recipe:
        case schema.SudokuTask():
            return Sudoku(recipe.size, recipe.min_clues, recipe.max_clues, recipe.cell_credit)
        case schema.CountdownTask():
            return Countdown(recipe.max_number, recipe.max_target, recipe.operators, recipe.number_credit)
        case schema.WalkTask():
            return Walk(recipe.successors, recipe.length, recipe.step_credit)
        case schema.S1kTask():
            return TextTask(
                S1K,
                recipe.source,
                completion_length=recipe.completion_length,
                instructions=recipe.instructions,
            )
        case schema.TextSettings():
            return TextTask(
                FAMILIES[recipe.kind],
                recipe.source,
                recipe.test_source,
                recipe.few_shot,
                recipe.reward,
                recipe.completion_length,
                recipe.instructions,
            )


def downloads(recipe: schema.TaskRecipe) -> list[str]:
    """The data sets of the hub that its rows come from."""
    task = task_of(recipe)
    sources = task.sources if isinstance(task, TextTask) else ()
    return [source for source in sources if source is not None and is_elsewhere(source)]


def check_data(recipe: schema.SftRecipe | schema.RlRecipe | schema.EvalRecipe) -> None:
    """Read what the recipe's task needs, if it names one, without torch: a mistake in the data is said at once."""
    if recipe.task is not None:
        checked_task(recipe.task, recipe.split if isinstance(recipe, schema.EvalRecipe) else "train")


def checked_task(recipe: schema.TaskRecipe, split: Split) -> Task:
    """The task, once its data have been read: what is wrong with them is said before a model is loaded."""
    task = task_of(recipe)
    task.problems(split, 1, seed=0)
    return task
