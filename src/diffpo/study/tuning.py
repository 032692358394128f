"""What the arms of a study are tuned by: a study of its own, on other seeds, whose results choose overrides."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from diffpo.recipes.tables import StudyArm, StudyChoice, StudyRecipe, StudyTuning
from diffpo.statistics.frontier import frontier_area
from diffpo.study.results import Result

TUNED = "tuned.json"


@dataclass(frozen=True)
class Tried:
    """One setting that an arm tried on a task."""

    overrides: tuple[str, ...]
    by_seed: tuple[float, ...]
    """The area under the greedy frontier at the end, of each tuning seed; fewer of them where runs failed."""

    @property
    def score(self) -> float:
        return float(np.mean(self.by_seed))


@dataclass(frozen=True)
class Tuned:
    """What was chosen for an arm on a task: of what it tried, and every seed finished, that with the largest area."""

    task: str
    arm: str
    tried: tuple[Tried, ...]
    chosen: int

    @property
    def choice(self) -> Tried:
        return self.tried[self.chosen]


def settings_tried(arm: StudyArm, tune: StudyTuning) -> list[tuple[str, ...]]:
    """Return the overrides of each setting that an arm tries: of each list of its grid one. Empty: it is not tuned."""
    grid = tune.grid if arm.grid is None else arm.grid
    return list(product(*grid)) if grid else []


def setting_name(arm: StudyArm, overrides: Sequence[str]) -> str:
    """Return the name of a setting as an arm of the tuning study: d1--optimizer.lr-8e-5--rollout.rule.bound-10.

    It depends on the setting alone, so that what was tried stays done when a grid grows.
    """
    return "--".join([arm.name, *(re.sub(r"[^A-Za-z0-9+._-]+", "-", override) for override in overrides)])


def tuning_study(recipe: StudyRecipe, tune: StudyTuning) -> StudyRecipe:
    """Return the study that the arms are tuned by: each setting is an arm, measured on validation problems."""
    arms = [
        StudyArm(
            name=setting_name(arm, overrides),
            recipe=arm.recipe,
            overrides=(*arm.overrides, *overrides),
            grid=(),
        )
        for arm in recipe.arms
        for overrides in settings_tried(arm, tune)
    ]
    measured = {"split": "validation", "count": tune.count, "batch": min(recipe.evaluation.batch, tune.count)}
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-tune",
            "arms": tuple(arms),
            "seeds": tune.seeds,
            "budget": tune.budget or recipe.budget,
            "evaluation": recipe.evaluation.model_copy(update=measured | {"every": 0.25}),
            "tune": None,
        }
    )


def tuning_arms(recipe: StudyRecipe, tune: StudyTuning, arms: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names that the settings of these arms, or of all, have in the study that they are tuned by."""
    return tuple(
        setting_name(arm, overrides)
        for arm in recipe.arms
        if arms is None or arm.name in arms
        for overrides in settings_tried(arm, tune)
    )


def chosen_settings(
    recipe: StudyRecipe,
    tune: StudyTuning,
    results: Sequence[Result],
    arms: Sequence[str] | None,
    tasks: Sequence[str] | None,
) -> Iterator[Tuned]:
    """Yield what the results of the tuning study choose for each of these arms that is tuned, on each of these tasks.

    A setting of which a seed has no result, because its run diverged, is not chosen; nothing is yielded for an arm of
    which that is so for all settings. Of equal ones, the first.
    """
    found = {(result["task"], result["arm"], result["seed"]): area_at_end(result) for result in results}
    for task in (task.name for task in recipe.tasks if tasks is None or task.name in tasks):
        for arm in (arm for arm in recipe.arms if arms is None or arm.name in arms):
            tried = []
            for overrides in settings_tried(arm, tune):
                keys = [(task, setting_name(arm, overrides), seed) for seed in tune.seeds]
                tried.append(Tried(overrides, tuple(found[key] for key in keys if key in found)))
            whole = [number for number, one in enumerate(tried) if len(one.by_seed) == len(tune.seeds)]
            if whole:
                yield Tuned(task, arm.name, tuple(tried), max(whole, key=lambda number: tried[number].score))


def area_at_end(result: Result) -> float:
    """Return the area under a run's greedy frontier at the end of its budget, the learned sampler's point included."""
    greedy = [rule for rule in result["points"][-1]["rules"] if not rule["rule"].startswith("temperature")]
    nfe, accuracy = (np.array([rule[name] for rule in greedy], dtype=float) for name in ("nfe", "accuracy"))
    return frontier_area(nfe, accuracy, hi=result["completion_length"])


def with_chosen(recipe: StudyRecipe, tuned: Sequence[Tuned]) -> StudyRecipe:
    """Return the study with what was chosen for its arms, and nothing left to tune."""
    arms = [
        arm.model_copy(
            update={
                "grid": None,
                "chosen": (
                    *arm.chosen,
                    *(
                        StudyChoice(task=one.task, overrides=one.choice.overrides)
                        for one in tuned
                        if one.arm == arm.name
                    ),
                ),
            }
        )
        for arm in recipe.arms
    ]
    return recipe.model_copy(update={"arms": tuple(arms), "tune": None})


def tuned_record(recipe: StudyRecipe, tune: StudyTuning, tuned: Sequence[Tuned]) -> Mapping[str, Any]:
    """Return what `tuned.json` holds: every setting that was tried with its areas, and the chosen one."""
    return {
        "study": recipe.name,
        "seeds": list(tune.seeds),
        "budget": tune.budget or recipe.budget,
        "validation_problems": tune.count,
        "by": "area under the greedy frontier at the end of the budget, over log NFE from 1 to the completion's length",
        "chosen": [
            {
                "task": one.task,
                "arm": one.arm,
                "overrides": list(one.choice.overrides),
                "area": round(one.choice.score, 4),
                "tried": [
                    {"overrides": list(each.overrides), "by_seed": [round(area, 4) for area in each.by_seed]}
                    for each in one.tried
                ],
            }
            for one in tuned
        ],
    }
