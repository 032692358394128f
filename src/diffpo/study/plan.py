"""What a study consists of: its runs, the recipe of each, and what is wrong with them before anything is trained."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffpo.core.errors import UserError
from diffpo.recipes import Strict, load_recipe, recipe_of
from diffpo.recipes.dump import plain_table, user_code_in
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import (
    BASE,
    RlRecipe,
    SftRecipe,
    StudyArm,
    StudyEvaluation,
    StudyMismatch,
    StudyRecipe,
    StudyTask,
)


@dataclass(frozen=True, order=True)
class StudyRun:
    """One run of a study; the arm may be the base, in studies that measure it."""

    task: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.arm} seed {self.seed}"


@dataclass(frozen=True)
class StudyPaths:
    """Where a study works. What is in there can be lost: it costs time, and no result."""

    work: Path

    def base(self, task: str) -> Path:
        return self.work / "bases" / task

    def run(self, unit: StudyRun) -> Path:
        return self.work / "runs" / unit.task / unit.arm / f"seed-{unit.seed}"


@dataclass(frozen=True)
class Selection:
    """Names to keep; None: all of them."""

    arms: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    seeds: tuple[str, ...] | None = None


def study_runs(recipe: StudyRecipe, selection: Selection) -> list[StudyRun]:
    """The selected runs, seed by seed, so that an interrupted study has compared all arms on the first seeds.

    Raises UserError for a name that the recipe does not have.
    """
    models = [BASE] if recipe.kind == "likelihood" else []
    models += [arm.name for arm in recipe.arms]
    tasks = _selected("task", [task.name for task in recipe.tasks], selection.tasks)
    arms = _selected("arm", models, selection.arms)
    seeds = _selected("seed", [str(seed) for seed in recipe.seeds], selection.seeds)
    return [StudyRun(task, arm, int(seed)) for seed in seeds for task in tasks for arm in arms]


def _selected(what: str, names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    if wanted is None:
        return list(names)
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(f"the study has no {what} {', '.join(unknown)}; choose from {', '.join(names)}")
    return [name for name in names if name in wanted]


def task_named(recipe: StudyRecipe, name: str) -> StudyTask:
    return next(task for task in recipe.tasks if task.name == name)


def arm_named(recipe: StudyRecipe, name: str) -> StudyArm:
    return next(arm for arm in recipe.arms if arm.name == name)


def sft_recipe(task: StudyTask) -> SftRecipe:
    """The base's recipe, on one thread: a study is parallel over its runs."""
    return load_recipe(SftRecipe, task.base, [*task.overrides, "threads=1"])


def rl_recipe(recipe: StudyRecipe, unit: StudyRun, paths: StudyPaths) -> RlRecipe:
    """The recipe of a run: its arm's, with the study's task, base, seed and budget in place of the arm's own."""
    task, arm = task_named(recipe, unit.task), arm_named(recipe, unit.arm)
    overrides = [
        f"task={_inline(sft_recipe(task).task.model_dump(mode='json', exclude_none=True))}",
        *task.rl,
        *arm.overrides,
        f"budget={_inline({'denoiser_calls': recipe.budget})}",
        f"seed={unit.seed}",
        f"base={json.dumps(str(paths.base(unit.task)))}",
        "threads=1",
    ]
    return load_recipe(RlRecipe, arm.recipe, overrides)


def _inline(table: dict[str, Any]) -> str:
    """A TOML table of plain values on one line."""
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


def check(recipe: StudyRecipe, units: Iterable[StudyRun], paths: StudyPaths) -> None:
    """Raises UserError naming every combination that cannot run, and why."""
    if mistakes := list(_mistakes(recipe, units, paths)):
        raise UserError("\n  ".join(["nothing was trained: some combinations cannot run:", *mistakes]))


def _mistakes(recipe: StudyRecipe, units: Iterable[StudyRun], paths: StudyPaths) -> Iterator[str]:
    combinations = {(unit.task, unit.arm): unit for unit in units}.values()
    broken: set[str] = set()
    for name in dict.fromkeys(unit.task for unit in combinations):
        try:
            build_task(sft_recipe(task_named(recipe, name)).task)
        except UserError as error:
            broken.add(name)
            yield f"task {name}: {_on_one_line(error)}"
    for unit in combinations:
        if unit.task in broken or unit.arm == BASE:
            continue
        try:
            build_task(rl_recipe(recipe, unit, paths).task)
        except UserError as error:
            yield f"arm {unit.arm} on task {unit.task}: {_on_one_line(error)}"


def _on_one_line(error: UserError) -> str:
    return " ".join(str(error).split())


def settings_of(recipe: StudyRecipe, unit: StudyRun, paths: StudyPaths) -> dict[str, Any]:
    """Everything that a run's result depends on, but for the names of folders: it stands in the result line."""
    settings: dict[str, Any] = {"base": plain_table(sft_recipe(task_named(recipe, unit.task)))}
    settings["measured"] = plain_table(_measured(recipe))
    if unit.arm != BASE:
        settings["rl"] = plain_table(rl_recipe(recipe, unit, paths)) | {"base": unit.task}
    return settings


def today(recipe: StudyRecipe, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a result line with today's defaults where they have none.

    An option that was added since then did what its default does. Settings that no recipe of today can have stay as
    they are, and so do those that name code of the user's own which `given`, today's settings, does not: it is not run.
    """
    kinds: dict[str, type[Strict]] = {"base": SftRecipe, "rl": RlRecipe, "measured": type(_measured(recipe))}
    found = dict(settings)
    for name in kinds.keys() & settings.keys():
        if not user_code_in(settings[name]) <= user_code_in(given.get(name, {})):
            continue
        with suppress(UserError):
            found[name] = plain_table(recipe_of(kinds[name], settings[name], name))
    return found


def _measured(recipe: StudyRecipe) -> StudyEvaluation | StudyMismatch:
    return recipe.evaluation if recipe.kind == "arms" else recipe.mismatch
