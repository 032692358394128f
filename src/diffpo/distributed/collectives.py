"""Several processes with the same model, each with a share of the rows. In a single process all this does nothing.

Every process must come to the same calls in the same order, so nothing that decides about one may differ: what is
decided by (rewards, budgets, requests to stop) is first made the same everywhere (docs/decisions/0013).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from diffpo.core.errors import PeerFailedError, UserError
from diffpo.distributed.process import current_process

T = TypeVar("T")
N = TypeVar("N", int, float)
P = ParamSpec("P")

PATIENCE = timedelta(hours=2)
"""How long processes wait for the slowest: rollouts of one step may differ by much. torchrun ends what waits for a dead
one long before."""
BUCKET = 2**25
"""Elements that are summed at a time: 128 MiB."""


@contextmanager
def process_group() -> Iterator[None]:
    """Make one group of the processes that torchrun has started, for as long as all is well."""
    if current_process().world_size == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    yield
    dist.destroy_process_group()


def all_gather_object(value: T) -> list[T]:
    """What each process holds, in their order: for small things, tensors on the CPU among them."""
    if (size := current_process().world_size) == 1:
        return [value]
    found: list[Any] = [None] * size
    with _others():
        dist.all_gather_object(found, value)
    return found


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes in their order; how many each has may differ, the rest of the shape may not."""
    if current_process().world_size == 1:
        return rows
    own = rows.detach().cpu().clone()  # a view would be sent with all that it is a view of
    return torch.cat(all_gather_object(own)).to(rows.device)


def all_reduce_metrics(numbers: Mapping[str, N]) -> dict[str, N]:
    """Sums over all processes, name by name; what a process does not name counts 0."""
    first, *others = all_gather_object(dict(numbers))
    for other in others:
        for name, number in other.items():
            first[name] = first[name] + number if name in first else number
    return first


@torch.no_grad()
def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Give all processes the sum of their gradients, added up in float32; frozen parameters are left out."""
    if current_process().world_size == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:  # a process may have no rows, or none that this parameter matters for
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if sum(gradient.numel() for gradient in bucket) >= BUCKET:
            _sum(bucket)
            bucket = []
    if bucket:
        _sum(bucket)


def _sum(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten().float() for gradient in gradients])
    with _others():
        dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


@contextmanager
def _others() -> Iterator[None]:
    """Where another process is gone, which has its own word on why."""
    try:
        yield
    except RuntimeError as error:
        raise PeerFailedError(f"another process of this run has ended ({error})") from error


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """What one process raises in here all raise behind it, so that none waits for one that has gone.

    A UserError is the same in all. Anything else keeps its traceback where it happened, and is a PeerFailedError in the
    others. For work without calls to the functions above: the processes would not come to the same ones.
    """
    if current_process().world_size == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # noqa: BLE001  it is raised below, when the others know
        error = caught
    told = error
    if error is not None and not isinstance(error, UserError):
        told = PeerFailedError(f"process {current_process().rank} failed: {type(error).__name__}: {error}")
    found = [each for each in all_gather_object(told) if each is not None]
    if error is not None and told is not error:
        raise error
    if found:
        raise found[0]


def on_rank_zero(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Have the first process do it while the others wait: what it returns, or raises, is everybody's."""
    result: T | None = None
    with raise_on_all_ranks():
        if current_process().is_main:
            result = work(*args, **kwargs)
    return cast(T, all_gather_object(result)[0])
