"""A batch becomes one optimiser step of the controller: the entropy bound is trained as one more token."""

from collections.abc import Iterable

import torch
from torch import nn

from diffpo.core.errors import NonFiniteLossError
from diffpo.runs.optimizer import Optimizer
from diffpo.sampling.controller import Controller
from diffpo.training.rollouts import Batch


def update_controller(controller: Controller, batch: Batch, optimizer: Optimizer, grad_clip: float) -> dict[str, float]:
    """Take one policy-gradient step (REINFORCE) on the bounds that the batch's rollouts drew; return metrics.

    There is one step for each batch, by the controller that drew it, so there is no ratio to clip.
    Raises NonFiniteLossError before the optimiser is touched.
    """
    rollout = batch.rollout
    logp = controller.logp(rollout.prompt_features, rollout.entropy_bound)
    loss = -(batch.bound_advantage * logp).mean()
    optimizer.zero_grad()
    loss.backward()
    take_step(controller.parameters(), optimizer, grad_clip)
    return bound_metrics(controller, batch)


def take_step(parameters: Iterable[nn.Parameter], optimizer: Optimizer, grad_clip: float) -> None:
    """Clip the norm of a learned sampler's gradients and step; every process has them of the whole batch.

    Raises NonFiniteLossError before the optimiser is touched.
    """
    norm = nn.utils.clip_grad_norm_(parameters, grad_clip)
    if not bool(norm.isfinite()):
        raise NonFiniteLossError(f"the controller's gradient norm is {float(norm)}")
    optimizer.step()


def bound_metrics(controller: Controller, batch: Batch) -> dict[str, float]:
    """Return what the controller would choose for the batch's prompts, and what its bounds earned."""
    rollout = batch.rollout
    with torch.no_grad():
        distribution = controller.log_bound(rollout.prompt_features)
    return {
        "bound_reward": float(batch.bound_reward.mean()),
        "bound_median": float(distribution.loc.median().exp()),
        "bound_log_std_across_prompts": float(distribution.loc.std()),
        "bound_log_sigma": float(distribution.scale.mean()),
    }
