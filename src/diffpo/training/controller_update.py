"""A batch becomes one optimiser step of the controller: the entropy bound is trained as one more token."""

import torch

from diffpo.core.errors import NonFiniteLossError
from diffpo.objective.clipped import clipped_loss
from diffpo.runs.optimizer import Optimizer
from diffpo.sampling.controller import Controller
from diffpo.training.rollouts import Batch
from diffpo.training.update_settings import ControllerUpdate


def update_controller(
    controller: Controller, batch: Batch, update: ControllerUpdate, optimizer: Optimizer
) -> dict[str, float]:
    """Take one clipped policy-gradient step on the bounds that the batch's rollouts drew; return metrics.

    Raises NonFiniteLossError before the optimiser is touched.
    """
    rollout = batch.rollout
    logp = controller.logp(rollout.prompt_features, rollout.entropy_bound)
    ratio = (logp - rollout.entropy_bound_logp).exp()
    loss, is_clipped = clipped_loss(ratio, batch.bound_advantage, update.clip)
    optimizer.zero_grad()
    (update.coef * loss.mean()).backward()
    norm = torch.nn.utils.clip_grad_norm_(controller.parameters(), update.grad_clip)
    if not bool(norm.isfinite()):
        raise NonFiniteLossError(f"the controller's gradient norm is {float(norm)}")
    optimizer.step()
    with torch.no_grad():
        distribution = controller.log_bound(rollout.prompt_features)
    return {
        "bound_median": float(distribution.loc.median().exp()),
        "bound_log_std_across_prompts": float(distribution.loc.std()),
        "bound_log_sigma": float(distribution.scale[0]),
        "bound_clip_fraction": float(is_clipped.float().mean()),
    }
