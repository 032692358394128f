"""One optimiser step of a model whose rows are shared among processes."""

import math
from collections.abc import Sequence

import torch

from diffpo.core.errors import NonFiniteLossError
from diffpo.distributed.collectives import all_reduce_gradients, all_reduce_metrics
from diffpo.runs.optimizer import Optimizer


def step_optimizer(
    parameters: Sequence[torch.nn.Parameter], optimizer: Optimizer, grad_clip: float, loss: float
) -> tuple[float, float]:
    """Add up the gradients of all processes, clip them, and take one step.

    `loss` is this process's part. Returns the norm before clipping and the loss of all processes. Raises
    NonFiniteLossError, without a step, where either is not finite.
    """
    all_reduce_gradients(parameters)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, grad_clip))
    if not math.isfinite(norm):
        raise NonFiniteLossError(f"the gradient's norm is {norm}")
    total = all_reduce_metrics({"loss": loss})["loss"]
    if not math.isfinite(total):  # its gradient may be a number all the same
        raise NonFiniteLossError(f"the loss is {total}")
    optimizer.step()
    return norm, total
