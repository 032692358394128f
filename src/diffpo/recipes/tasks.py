"""Where a recipe's task becomes a task; the other parts do in `recipes/parts.py`. Imports no torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from diffpo.core.errors import UserError
from diffpo.models.model_paths import base_folder
from diffpo.recipes.build import build_part
from diffpo.recipes.tables import (
    CustomTask,
    GameSettings,
    RlRecipe,
    S1kTask,
    SftRecipe,
    TaskRecipe,
    TextSettings,
    TextTaskRecipe,
)
from diffpo.recipes.tables.tasks import is_own_reward
from diffpo.recipes.tables.tracking import require_trackers
from diffpo.tasks.answer_grader import AnswerGrader
from diffpo.tasks.base import Split, Task
from diffpo.tasks.countdown import Countdown
from diffpo.tasks.custom_reward import WithReward, weighted_rewards
from diffpo.tasks.custom_task import CheckedTask
from diffpo.tasks.datasets import is_elsewhere
from diffpo.tasks.families import TASK_FAMILIES
from diffpo.tasks.own_rows import NAME as OWN_ROWS
from diffpo.tasks.own_rows import DivideByShares, RowParser, text_family
from diffpo.tasks.s1k import S1K
from diffpo.tasks.sudoku import Sudoku
from diffpo.tasks.text import Reward, TextTask
from diffpo.tasks.walk import Walk

TASKS: Mapping[str, Callable[..., Task]] = {
    "sudoku": Sudoku,
    "countdown": Countdown,
    "walk": Walk,
    **dict.fromkeys([*TASK_FAMILIES, OWN_ROWS, S1K.name], TextTask),
}

LOOKED_AT = 256
"""Train rows that are looked at for an answer."""


def build_task(recipe: TaskRecipe) -> Task:
    """Return the task, with the user's own reward if the recipe names one, whose code is run for it.

    One of the user's own is checked as it is used.
    """
    task = _build_without_reward(recipe)
    if isinstance(recipe, CustomTask):
        return CheckedTask(task, recipe.kind)
    if isinstance(recipe, GameSettings | TextSettings):
        weights = _weights(recipe.reward)
        own = {name: weight for name, weight in weights.items() if is_own_reward(name)}
        if own or set(weights.values()) - {1.0}:
            of_task = sum((weight for name, weight in weights.items() if name not in own), 0.0)
            solved_at = recipe.solved_at if isinstance(recipe, TextTaskRecipe) and recipe.grader == "none" else None
            return WithReward(task, weighted_rewards(own, recipe.functions), recipe.reward_seconds, of_task, solved_at)
    return task


def _weights(reward: str | Mapping[str, float] | None) -> Mapping[str, float]:
    return reward if isinstance(reward, Mapping) else {} if reward is None else {reward: 1.0}


def _build_without_reward(recipe: TaskRecipe) -> Task:
    given: dict[str, Any] = {}
    if isinstance(recipe, S1kTask):  # it has no test rows, and nothing of it is graded
        given = {"family": S1K, "validation_source": None, "test_source": None, "few_shot": 0, "reward": "correct"}
    elif isinstance(recipe, TextTaskRecipe):
        grader = AnswerGrader(recipe.grader, recipe.pattern)
        parser = RowParser(recipe.prompt, recipe.answer, recipe.template, recipe.answer_template, grader)
        given["family"] = text_family(parser, DivideByShares(recipe.test_share, recipe.validation_share))
        given["reward"] = "correct"
    elif isinstance(recipe, TextSettings):
        given["family"] = TASK_FAMILIES[recipe.kind]
        given["reward"] = next((name for name in _weights(recipe.reward) if name in get_args(Reward)), "correct")
    task: Task = build_part(TASKS, recipe, **given)
    return task


def downloads(recipe: TaskRecipe) -> list[str]:
    """Return the data sets of the hub that the task's rows come from."""
    task = _build_without_reward(recipe)
    sources = task.sources if isinstance(task, TextTask) else ()
    return [source for source in sources if source is not None and is_elsewhere(source)]


def check_inputs(recipe: SftRecipe | RlRecipe) -> None:
    """Read the data and look for trackers and the model, without torch, so that a mistake is told at once.

    What is away is fetched. Raises UserError for what is wrong with any of them.
    """
    require_trackers(recipe.track)
    task = checked_task(recipe.task, "train")
    if isinstance(recipe, SftRecipe) and isinstance(recipe.task, TextTaskRecipe):
        require_answers(task)
    if recipe.base is not None:
        base_folder(Path(recipe.base))


def require_answers(task: Task) -> None:
    """Raise UserError where the first train rows have none, which SFT would learn as answers of no words."""
    without = next(
        (problem for problem in task.problems("train", LOOKED_AT, seed=0) if not problem.answer.strip()), None
    )
    if without is not None:
        raise UserError(
            f"{task.name}: {without.id}, {without.prompt[:60]!r}, has no answer to learn from; name the column of the "
            "answers by task.answer, or leave such rows out"
        )


def checked_task(recipe: TaskRecipe, split: Split) -> Task:
    """Return the task once its data have been read. Raises UserError for what is wrong with them."""
    task = build_task(recipe)
    task.problems(split, 1, seed=0)
    return task
