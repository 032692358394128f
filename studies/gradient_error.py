"""How far is an estimator's gradient from the exact likelihood's on the same batch, and what does it cost?

    python studies/gradient_error.py runs/base --batches 4 --draws 8

For each model: batches as `tiny-exact` draws them (16 prompts x 8 completions, temperature 1, entropy bound 0.1), the
gradient of its loss with the exact likelihood, and that of each estimator for several draws. The error of a draw is the
norm of the difference over the norm of the exact gradient; that of the mean of all draws is what is left when noise is
averaged out, and an upper bound of the bias. Model and batch are the same for all estimators.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffpo.core.randomness import derive_seed, generator_for
from diffpo.likelihood import (
    Coupled,
    Elbo,
    Estimator,
    Exact,
    ManyTimesMeanField,
    MeanField,
    SampledExact,
    TwoTimesMeanField,
)
from diffpo.models.model_paths import RECIPE
from diffpo.objective.advantages import group_standardized
from diffpo.objective.clipped import ClippedSurrogate
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import SftRecipe
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy, load
from diffpo.sampling.rules import EntropyBound
from diffpo.study.tables import markdown_table
from diffpo.training.policy_update import update_policy
from diffpo.training.rollouts import Batch, Incentive, collect_batch
from diffpo.training.update_settings import PolicyUpdate

PROMPTS, GROUP, BOUND = 16, 8, 0.1
ESTIMATORS: tuple[Estimator, ...] = (
    MeanField(0.0),
    TwoTimesMeanField(),
    ManyTimesMeanField(3),
    ManyTimesMeanField(4),
    Coupled(),
    Elbo(2),
    *(SampledExact(draws) for draws in (1, 2, 3, 4)),
    SampledExact(1, uniform_share=0.0),
    SampledExact(2, uniform_share=0.0),
    SampledExact(2, "surprisal"),
    SampledExact(2, "uniform"),
    SampledExact(2, "gradient", "drawn"),
    SampledExact(2, "surprisal", "drawn"),
    SampledExact(2, "uniform", "drawn"),
)


@dataclass(frozen=True)
class Measured:
    """One estimator on one batch."""

    error: float
    """Root of the mean over draws of the squared relative error."""
    error_of_mean: float
    cosine: float
    canvases: float


def main() -> None:
    """Measure every estimator on every model, and print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bases", nargs="+", type=Path, help="folders of SFT runs")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--draws", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for base in options.bases:
        policy = load(base)
        found: dict[str, list[Measured]] = {}
        exact_canvases, nfe = [], []
        for number in range(options.batches):
            batch = batch_of(policy, base, number)
            exact, canvases = gradient(policy, batch, Exact(), 0)
            exact_canvases.append(canvases)
            nfe.append(float(batch.rollout.nfe.float().mean()))
            for estimator in ESTIMATORS:
                found.setdefault(str(estimator), []).append(measure(policy, batch, estimator, exact, options.draws))
        print(f"\n{base}: {np.mean(nfe):.1f} calls a rollout, exact {np.mean(exact_canvases):.0f} canvases\n")
        header = ("estimator", "canvases", "error of a draw", "by batch", f"of the mean of {options.draws}", "cosine")
        rows = [
            (
                name,
                f"{np.mean([one.canvases for one in batches]):.0f}",
                f"{np.mean([one.error for one in batches]):.2f}",
                " ".join(f"{one.error:.2f}" for one in batches),
                f"{np.mean([one.error_of_mean for one in batches]):.2f}",
                f"{np.mean([one.cosine for one in batches]):.2f}",
            )
            for name, batches in found.items()
        ]
        print(markdown_table(header, rows), flush=True)


def batch_of(policy: Policy, base: Path, number: int) -> Batch:
    """Return a batch of rollouts of the model on the task that it was trained on."""
    task = build_task(load_recipe(SftRecipe, str(base / RECIPE)).task)
    length = task.completion_length
    return collect_batch(
        policy,
        task,
        task.problems("train", PROMPTS, derive_seed(number, "gradient error")),
        Decoding(EntropyBound(BOUND), length, length, temperature=1.0),
        GROUP,
        Incentive(0.0, group_standardized),
        Incentive(0.0, group_standardized),
        generator_for(number, "gradient error"),
        "drawn",
    )


def gradient(policy: Policy, batch: Batch, estimator: Estimator, draw: int) -> tuple[Tensor, float]:
    """Return the gradient of the loss, all parameters in one vector, and the canvases that it took."""
    update = PolicyUpdate(
        estimator=estimator,
        objective=ClippedSurrogate(),
        loss_aggregation="sequence-mean",
        kl_coef=0.0,
        kl_estimator="full",
        temperature=1.0,
        num_iterations=1,
        redraw=False,
        micro_batch_size=None,
        grad_clip=1e9,
        drop_zero_std_groups=True,
    )
    counted = policy.with_new_counter()
    parameters = list(counted.denoiser.model.parameters())
    still = torch.optim.SGD(parameters, lr=0.0)
    generator = generator_for(draw, "gradient error", str(estimator))
    update_policy(counted.denoiser, None, batch, update, still, generator)
    found = torch.cat([p.grad.flatten().clone() for p in parameters if p.grad is not None])
    return found, float(counted.denoiser.usage.canvases)


def measure(policy: Policy, batch: Batch, estimator: Estimator, exact: Tensor, draws: int) -> Measured:
    found = [gradient(policy, batch, estimator, draw) for draw in range(draws)]
    errors = [float((one - exact).norm() / exact.norm()) for one, _ in found]
    mean = torch.stack([one for one, _ in found]).mean(dim=0)
    return Measured(
        error=float(np.sqrt(np.mean(np.square(errors)))),
        error_of_mean=float((mean - exact).norm() / exact.norm()),
        cosine=float(np.mean([float(torch.cosine_similarity(one, exact, dim=0)) for one, _ in found])),
        canvases=float(np.mean([canvases for _, canvases in found])),
    )


if __name__ == "__main__":
    main()
