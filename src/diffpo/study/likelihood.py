"""One run of a study of likelihoods: how far are surrogates from the behaviour policy of a base or a trained model?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffpo.core.randomness import derive_seed, generator_for
from diffpo.likelihood.mismatch import boundary_kl, by_step, committed_kl, rises
from diffpo.recipes.parts import build_estimator, build_task
from diffpo.recipes.tables import BASE, StudyRecipe, estimator_name
from diffpo.runs.prompt_filter import filter_long_prompts
from diffpo.sampling.answering import answer_problems
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import load
from diffpo.sampling.rules import EntropyBound
from diffpo.statistics.intervals import ratio_interval
from diffpo.study.plan import StudyPaths, StudyRun, base_seed, rl_recipe, settings_of, sft_recipe, task_named
from diffpo.study.results import BOUNDARIES, Result
from diffpo.training.rl import run_rl

FEWEST_ROLLOUTS = 20
"""A call and a boundary need this many rollouts for an interval: one of fewer is too narrow."""


def run_likelihood(recipe: StudyRecipe, run: StudyRun, paths: StudyPaths) -> list[Result]:
    """Return a result for each estimator and one for all boundaries, of the base or the model that the arm trains."""
    model = paths.base(run.task, base_seed(recipe, run))
    if run.arm != BASE:
        model = paths.run(run)
        run_rl(rl_recipe(recipe, run, paths), model, resume="auto")
    about = {"study": recipe.name, "kind": recipe.kind, "task": run.task, "arm": run.arm, "seed": run.seed}
    about |= {"settings": settings_of(recipe, run, paths)}
    return [about | found for found in measure_mismatch(recipe, run, model)]


def measure_mismatch(recipe: StudyRecipe, run: StudyRun, model: Path) -> list[Result]:
    """Measure the KL of each estimator by call, and its rise by boundary, on rollouts of the model in a folder.

    Each is given as sums and counts of tokens for each rollout; KL is in nats.
    """
    settings = recipe.mismatch
    policy = load(model)
    denoiser = policy.denoiser
    trained = sft_recipe(task_named(recipe, run.task)).task
    task = filter_long_prompts(build_task(trained), trained, denoiser.model.config, policy.tokenizer)
    problems = task.problems(settings.split, settings.count, derive_seed(settings.seed, "mismatch"))
    # They depend on the seed and not on the model: before and after training the same noise draws the tokens.
    seeds = torch.randint(2**62, (len(problems),), generator=generator_for(run.seed, "mismatch rollouts"))
    length = task.completion_length
    decoding = Decoding(EntropyBound(settings.bound), length, length, temperature=1.0)
    rollout, grades = answer_problems(policy, task, problems, decoding, seeds)
    is_scored = rollout.is_answer
    clusters = [problem.cluster for problem in problems]
    about = {
        "completion_length": length,
        "clusters": clusters,
        "solved": float(np.mean([grade.is_solved for grade in grades])),
        "nfe": float(rollout.nfe.float().mean()),
    }
    found = []
    for estimator in settings.estimators:
        name = estimator_name(estimator)
        draw = generator_for(run.seed, "mismatch", name)
        kl = committed_kl(denoiser, rollout, is_scored, build_estimator(estimator), settings.draws, draw)
        sums, counts = by_step(kl, rollout, is_scored)
        found.append({"estimator": name} | about | _rows(sums, counts))
    sums, counts = rises(boundary_kl(denoiser, rollout, is_scored), rollout, is_scored)
    pairs = {"pairs": rises_of_pairs(sums.numpy(), counts.numpy(), clusters)}
    found.append({"estimator": BOUNDARIES} | about | _rows(sums.sum(dim=1), counts.sum(dim=1)) | pairs)
    return found


def _rows(sums: Tensor, counts: Tensor) -> dict[str, Any]:
    """Return a row for each rollout, rounded to six digits, which is more than the figures can show."""
    return {
        "sums": [[float(f"{value:.6g}") for value in row] for row in sums.tolist()],
        "counts": counts.long().tolist(),
    }


def rises_of_pairs(sums: np.ndarray, counts: np.ndarray, clusters: list[str]) -> list[dict[str, Any]]:
    """Return the mean rise of the KL per token of call t from boundary s - 1 to s, with its 95 % interval.

    `sums` and `counts` have shape [rollouts, calls, boundaries]. Pairs with fewer than `FEWEST_ROLLOUTS` are left out.
    """
    calls, boundaries = ((counts > 0).sum(axis=0) >= FEWEST_ROLLOUTS).nonzero()
    found = []
    for call, boundary in zip(calls, boundaries, strict=True):
        total, tokens = (array[:, call, boundary] for array in (sums, counts))
        if (interval := ratio_interval(total, tokens, clusters)) is not None:
            rise = float(total.sum() / tokens.sum())
            found.append({"call": int(call), "boundary": int(boundary), "rise": rise, "ci95": interval})
    return found
