"""Models whose weights, gradients and moments are divided among processes, by PyTorch's FSDP2 (docs/decisions/0031).

A block's weights are gathered for each of its passes and dropped behind it, so all processes must make the same passes
of the same model; `gathered` lifts that for a while. What stays is a DTensor: a process's part of a tensor.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate

REPLICATE, SHARD = "replicate", "shard"
"""The two dimensions of the mesh of processes."""


def shard_(model: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Divide a model's weights among the processes of a mesh, block by block; the rest is one more block.

    A model that is trained whole becomes float32 and computes in the dtype that it had: its weights are their own
    masters. Gradients are summed over all processes, in float32. Other weights keep their dtypes.
    """
    is_trained = all(parameter.requires_grad for parameter in model.parameters())
    dtype = next(model.parameters()).dtype
    is_cast = is_trained and dtype != torch.float32
    policy = MixedPrecisionPolicy(
        param_dtype=dtype if is_cast else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for unit in (*blocks, model):
        if is_cast:
            unit.float()
        # What the outermost unit has of its own (embedding, last norm, head) is read behind its forward pass, too.
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=unit is not model)
        sharded = cast(FSDPModule, unit)
        sharded.set_gradient_divide_factor(1.0)  # the loss is divided by the whole batch already
        sharded.set_force_sum_reduction_for_comms(True)  # what gloo can do


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model's weights are divided among processes."""
    return isinstance(model, FSDPModule)


@contextmanager
def gathered(*models: nn.Module) -> Iterator[None]:
    """Let processes make passes of their own, without gradients: the weights of sharded models are gathered once.

    All processes must enter together.
    """
    units = [unit for model in models for unit in model.modules() if isinstance(unit, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit not in models, recurse=False)
        drop_gathered_(*models)


def drop_gathered_(*models: nn.Module) -> None:
    """Let sharded models hold their parts alone again, as after a backward pass."""
    for model in models:
        for unit in model.modules():
            if isinstance(unit, FSDPModule):
                unit.reshard()


def spread(value: Tensor, like: Tensor) -> Tensor:
    """Return a tensor that all processes have whole, divided as `like` is: no process sends anything."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    mesh = like.device_mesh
    everywhere = DTensor.from_local(value.to(like.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=like.placements)


def whole(value: Any) -> Any:
    """Return a divided tensor whole, which all processes must ask for; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value
