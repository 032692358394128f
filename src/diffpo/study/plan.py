"""The runs of a study and the recipe of each; those that cannot run are refused before anything is trained."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffpo.core.errors import UserError
from diffpo.core.suggestion import suggestion
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
    """One run of a study. In a study of likelihoods the arm may be the base, which is measured and not trained."""

    task: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.arm} seed {self.seed}"


@dataclass(frozen=True)
class StudyPaths:
    """The folders of a study's bases and runs. They can be lost: that costs time, and no result."""

    work: Path

    def base(self, task: str, seed: int | None = None) -> Path:
        """Return the folder of a task's base, or of its base for a seed."""
        folder = self.work / "bases" / task
        return folder if seed is None else folder / f"seed-{seed}"

    def run(self, run: StudyRun) -> Path:
        return self.work / "runs" / run.task / run.arm / f"seed-{run.seed}"


@dataclass(frozen=True)
class Selection:
    """Names of the arms, tasks and seeds to run; None selects all of them."""

    arms: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    seeds: tuple[str, ...] | None = None


def study_runs(recipe: StudyRecipe, selection: Selection) -> list[StudyRun]:
    """Return the selected runs, seed by seed, so that an interrupted study has compared all arms on the first seeds.

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
        meant = suggestion(unknown[0], names)
        raise UserError(f"the study has no {what} {', '.join(unknown)}{meant}; choose from {', '.join(names)}")
    return [name for name in names if name in wanted]


def task_named(recipe: StudyRecipe, name: str) -> StudyTask:
    return next(task for task in recipe.tasks if task.name == name)


def arm_named(recipe: StudyRecipe, name: str) -> StudyArm:
    return next(arm for arm in recipe.arms if arm.name == name)


def base_seed(recipe: StudyRecipe, run: StudyRun) -> int | None:
    """Return the seed of the base that a run starts from; None where all seeds of a task have one base."""
    return run.seed if recipe.base_per_seed else None


def sft_recipe(task: StudyTask, seed: int | None = None) -> SftRecipe:
    """Return the recipe of a task's base, or of its base for a seed.

    It takes one thread: a study is parallel over its runs.
    """
    own = [] if seed is None else [f"seed={seed}"]
    return load_recipe(SftRecipe, task.base, [*task.overrides, "threads=1", *own])


def rl_recipe(recipe: StudyRecipe, run: StudyRun, paths: StudyPaths) -> RlRecipe:
    """Return the recipe of a run: its arm's, with the study's task, base, seed and budget in place of the arm's own.

    What was chosen for the arm on this task comes after its overrides."""
    task, arm = task_named(recipe, run.task), arm_named(recipe, run.arm)
    overrides = [
        f"task={_inline(sft_recipe(task).task.model_dump(mode='json', exclude_none=True))}",
        *task.rl,
        *arm.overrides,
        *(override for chosen in arm.chosen if chosen.task == run.task for override in chosen.overrides),
        f"budget={_inline({'denoiser_calls': recipe.budget})}",
        f"seed={run.seed}",
        f"base={json.dumps(str(paths.base(run.task, base_seed(recipe, run))))}",
        "threads=1",
    ]
    return load_recipe(RlRecipe, arm.recipe, overrides)


def _inline(table: dict[str, Any]) -> str:
    """Return a TOML table of plain values on one line."""
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


def check(recipe: StudyRecipe, runs: Iterable[StudyRun], paths: StudyPaths) -> None:
    """Check that all runs can run. Raises UserError naming every combination that cannot, and why."""
    if mistakes := list(_mistakes(recipe, runs, paths)):
        raise UserError("\n  ".join(["nothing was trained: some combinations cannot run:", *mistakes]))


def _mistakes(recipe: StudyRecipe, runs: Iterable[StudyRun], paths: StudyPaths) -> Iterator[str]:
    combinations = {(run.task, run.arm): run for run in runs}.values()
    broken: set[str] = set()
    for name in dict.fromkeys(run.task for run in combinations):
        try:
            build_task(sft_recipe(task_named(recipe, name)).task)
        except UserError as error:
            broken.add(name)
            yield f"task {name}: {_on_one_line(error)}"
    for run in combinations:
        if run.task in broken or run.arm == BASE:
            continue
        try:
            build_task(rl_recipe(recipe, run, paths).task)
        except UserError as error:
            yield f"arm {run.arm} on task {run.task}: {_on_one_line(error)}"


def _on_one_line(error: UserError) -> str:
    return " ".join(str(error).split())


def settings_of(recipe: StudyRecipe, run: StudyRun, paths: StudyPaths) -> dict[str, Any]:
    """Return everything that a run's result depends on, but for the names of folders. Each result keeps it."""
    settings: dict[str, Any] = {"base": plain_table(sft_recipe(task_named(recipe, run.task), base_seed(recipe, run)))}
    settings["measured"] = plain_table(_measurement(recipe))
    if run.arm != BASE:
        settings["rl"] = plain_table(rl_recipe(recipe, run, paths)) | {"base": run.task}
    return settings


def with_defaults(recipe: StudyRecipe, settings: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored `settings` of a result with today's defaults where they have none.

    An option that was added since then did what its default does. Settings that no recipe of today can have stay as
    they are, and so do those that name code of the user's own which the `current` ones do not name: it is not run.
    """
    if recipe.kind == "arms":  # results from before there were validation problems have none, whatever the default is
        settings = {**settings, "measured": {"validation_count": 0, **settings.get("measured", {})}}
    kinds: dict[str, type[Strict]] = {"base": SftRecipe, "rl": RlRecipe, "measured": type(_measurement(recipe))}
    found = dict(settings)
    for name in kinds.keys() & settings.keys():
        if not user_code_in(settings[name]) <= user_code_in(current.get(name, {})):
            continue
        with suppress(UserError):
            found[name] = plain_table(recipe_of(kinds[name], settings[name], name))
    return found


def _measurement(recipe: StudyRecipe) -> StudyEvaluation | StudyMismatch:
    """Return the part of the recipe that says what is measured."""
    return recipe.evaluation if recipe.kind == "arms" else recipe.mismatch
