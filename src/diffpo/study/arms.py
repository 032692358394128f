"""One run of a study of arms: train, measure points of the trajectory on the way, and return the result."""

import json
from dataclasses import replace
from math import ceil
from typing import Any

import torch

from diffpo.core.errors import UserError
from diffpo.core.files import write_json
from diffpo.core.randomness import generator_for
from diffpo.evaluation.loop import Outcome, evaluate_decodings, evaluation_problems, validation_problems
from diffpo.models.model_paths import METRICS
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import StudyEvaluation, StudyRecipe, TaskRecipe
from diffpo.runs.prompt_filter import filter_long_prompts
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy, load
from diffpo.sampling.rules import EntropyBound
from diffpo.statistics.intervals import share_interval
from diffpo.study.frontiers import LEARNED
from diffpo.study.plan import StudyPaths, StudyRun, base_seed, rl_recipe, settings_of, sft_recipe, task_named
from diffpo.study.results import Result
from diffpo.tasks.base import Task
from diffpo.training.rl import run_rl
from diffpo.training.rl_setup import RlState

CLOCKS = ("seconds", "cpu_seconds")
"""Metrics of a step that differ from one execution to the next."""


def run_arm(recipe: StudyRecipe, run: StudyRun, paths: StudyPaths) -> Result:
    """Train to the end of the budget and return the result.

    An earlier attempt is resumed from its last checkpoint. Raises UserError where points of the trajectory were
    measured with other settings.
    """
    out = paths.run(run)
    evaluation = recipe.evaluation
    shares = shares_of(evaluation)
    settings = evaluation.model_dump(mode="json")
    files = [out / "points" / f"{index}.json" for index in range(1, len(shares) + 1)]
    for file in files:
        if file.is_file() and json.loads(file.read_text())["measured"] != settings:
            raise UserError(f"{file} was measured with other settings; choose another --work, or delete {out}")

    def measure(state: RlState, step: int, calls: int, spent: float) -> None:
        due = [i for i, share in enumerate(shares) if spent >= share and not files[i].exists()]
        if not due:
            return
        # The calls of evaluations have a counter of their own: they are no part of the run's budget.
        measured = measure_policy(state.policy.with_new_counter(), state.task, evaluation, shares[due[-1]] == 1)
        for i in due:
            point = {"share": shares[i], "step": step, "calls": calls} | measured
            write_json(files[i], {"measured": settings, "point": point})

    trained = rl_recipe(recipe, run, paths)
    run_rl(trained, out, resume="auto", on_step=measure)
    task = filtered_task(trained.task, load(paths.base(run.task, base_seed(recipe, run))))
    log = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    points = [base_point(recipe, run, paths), *(json.loads(file.read_text())["point"] for file in files)]
    return {
        "study": recipe.name,
        "kind": recipe.kind,
        "task": run.task,
        "arm": run.arm,
        "seed": run.seed,
        "settings": settings_of(recipe, run, paths),
        "completion_length": task.completion_length,
        "clusters": [problem.cluster for problem in evaluation_problems(task, evaluation)[0]],
        "points": points,
        "training": [{name: v for name, v in step.items() if name not in CLOCKS} for step in log],
        "cpu_seconds": [cpu_seconds(log[: point["step"]]) for point in points],
        "seconds": sum(step["seconds"] for step in log),
    }


def cpu_seconds(log: list[dict[str, Any]]) -> float:
    """Return the processor's time for these steps; the wall's for those of a run begun before it was logged."""
    return float(round(sum(step.get("cpu_seconds", step["seconds"]) for step in log), 3))


def shares_of(evaluation: StudyEvaluation) -> list[float]:
    """Return the shares of the budget at which a trajectory has its points, without the start: 0.25, 0.5, 0.75, 1."""
    count = ceil(1 / evaluation.every - 1e-9)
    return [min(1.0, round((i + 1) * evaluation.every, 9)) for i in range(count)]


def base_point(recipe: StudyRecipe, run: StudyRun, paths: StudyPaths) -> dict[str, Any]:
    """Return the point at which a run starts. The first run to need it measures it and keeps it in a file."""
    base = paths.base(run.task, base_seed(recipe, run))
    kept = base / "point.json"
    settings = recipe.evaluation.model_dump(mode="json")
    if kept.is_file() and (record := json.loads(kept.read_text()))["measured"] == settings:
        return dict(record["point"])
    policy = replace(load(base), controller=None)
    task = filtered_task(sft_recipe(task_named(recipe, run.task)).task, policy)
    point = {"share": 0.0, "step": 0, "calls": 0} | measure_policy(policy, task, recipe.evaluation, True)
    write_json(kept, {"measured": settings, "point": point})
    return point


def filtered_task(recipe: TaskRecipe, policy: Policy) -> Task:
    """Return the task without prompts that are too long for the model."""
    return filter_long_prompts(build_task(recipe), recipe, policy.denoiser.model.config, policy.tokenizer)


def measure_policy(policy: Policy, task: Task, evaluation: StudyEvaluation, is_end: bool) -> dict[str, Any]:
    """Measure accuracy and denoiser calls under fixed bounds, under the controller's bounds and at temperature 1.

    Decoding is greedy but for the last; without a controller its rule is absent. The values of every problem are kept,
    so that intervals over problems and seeds can be computed from the results. At an end (the base's is one) all bounds
    are measured, and the means on validation problems, by which constants are chosen.
    """
    problems, _ = evaluation_problems(task, evaluation)
    seeds = torch.randint(2**62, (len(problems),), generator=generator_for(evaluation.seed, "temperature 1"))
    length = task.completion_length
    bounds = evaluation.bounds if is_end else evaluation.grid_between
    greedy = {f"entropy bound {bound:g}": Decoding(EntropyBound(bound), length, length) for bound in bounds}
    if policy.controller is not None:
        greedy[LEARNED] = Decoding(EntropyBound(), length, length, controller=policy.controller)
    sampled = {"temperature 1": Decoding(EntropyBound(evaluation.sampled_bound), length, length, temperature=1.0)}
    clusters = [problem.cluster for problem in problems]
    rules = [
        _means(outcome)
        | {
            "ci95": share_interval(outcome.is_solved, clusters),
            "solved": outcome.is_solved.astype(int).tolist(),
            "nfe_rows": outcome.nfe.tolist(),
        }
        for outcome in evaluate_decodings(policy, task, problems, greedy | sampled, evaluation.batch, seeds)
    ]
    validation = validation_problems(task, evaluation, evaluation.num_validation) if is_end else []
    if not validation:
        return {"rules": rules}
    found = [_means(outcome) for outcome in evaluate_decodings(policy, task, validation, greedy, evaluation.batch)]
    return {"rules": rules, "validation": {"n": len(validation), "rules": found}}


def _means(outcome: Outcome) -> dict[str, Any]:
    return {"rule": outcome.name, "accuracy": float(outcome.is_solved.mean()), "nfe": float(outcome.nfe.mean())}
