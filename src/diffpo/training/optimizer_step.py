"""One optimiser step of a model whose rows are shared among processes."""

import math
from collections.abc import Sequence

import torch
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from diffpo.core.errors import NonFiniteLossError
from diffpo.distributed.collectives import all_reduce_gradients, all_reduce_metrics
from diffpo.distributed.sharding import whole
from diffpo.runs.optimizer import Optimizer


def step_optimizer(
    parameters: Sequence[torch.nn.Parameter], optimizer: Optimizer, grad_clip: float, loss: float
) -> tuple[float, float]:
    """Add up the gradients of all processes, clip them, and take one step.

    `loss` is this process's part. Returns the norm before clipping and the loss of all processes. Raises
    NonFiniteLossError, without a step, where either is not finite.
    """
    all_reduce_gradients(parameters)
    norm = clip_gradients_(parameters, grad_clip)
    if not math.isfinite(norm):
        raise NonFiniteLossError(f"the gradient's norm is {norm}")
    total = all_reduce_metrics({"loss": loss})["loss"]
    if not math.isfinite(total):  # its gradient may be a number all the same
        raise NonFiniteLossError(f"the loss is {total}")
    optimizer.step()
    return norm, total


def clip_gradients_(parameters: Sequence[torch.nn.Parameter], largest: float) -> float:
    """Scale the gradients so that their norm is at most `largest`; return the norm that they had.

    Parameters of sharded models and others may stand side by side: each process has a part of some, and all of others.
    """
    divided: list[torch.nn.Parameter] = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    others = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    norms = [
        whole(get_total_norm([parameter.grad for parameter in kind if parameter.grad is not None]))
        for kind in (divided, others)
        if kind
    ]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for kind in (divided, others):
        clip_grads_with_norm_(kind, largest, norm)
    return float(norm)
