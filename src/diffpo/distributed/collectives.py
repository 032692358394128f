"""Collectives of processes that have the same model and a share of the rows each. A single process needs none.

All processes must make the same calls in the same order. So every value that decides whether a call is made (rewards,
budgets, requests to stop) must first be made equal in all of them (docs/decisions/0013).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from diffpo.core.errors import PeerFailedError, UserError
from diffpo.distributed.process import current_process

T = TypeVar("T")
N = TypeVar("N", int, float)
P = ParamSpec("P")

PATIENCE = timedelta(hours=2)
"""How long a process waits for the slowest one, since rollouts of a step may differ by much. Where a process has died,
torchrun ends the others long before that."""
JOINING = timedelta(minutes=5)
"""How long a process waits for the others to start: one that died before it joined would never come."""
BUCKET = 2**25
"""Number of float32 elements that are summed at a time: 128 MiB."""


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun has started into one group, and leave it unless the block raises.

    Raises PeerFailedError where they do not all come within minutes, UserError where nothing says where they meet.
    """
    if current_process().world_size == 1 or dist.is_initialized():
        yield
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UserError(f"the environment has LOCAL_RANK and lacks {' and '.join(missing)}; start it by torchrun")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=JOINING)
    except RuntimeError as error:
        minutes = JOINING.total_seconds() / 60
        raise PeerFailedError(
            f"the processes of this run have not found each other within {minutes:g} minutes ({error})"
        ) from error
    _set_pg_timeout(PATIENCE)  # torch has no public way; torchtitan does the same
    yield
    dist.destroy_process_group()


def all_gather_object(value: T) -> list[T]:
    """Return the value of every process, in the order of ranks. For small objects; tensors must be on the CPU."""
    if (size := current_process().world_size) == 1:
        return [value]
    found: list[Any] = [None] * size
    with _explain_lost_peers():
        dist.all_gather_object(found, value)
    return found


def all_gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of ranks.

    Processes may have different numbers of rows; the rest of the shape must be the same.
    """
    if current_process().world_size == 1:
        return rows
    own = rows.detach().cpu().clone()  # a view would be sent with all of its storage
    return torch.cat(all_gather_object(own)).to(rows.device)


def all_reduce_metrics(numbers: Mapping[str, N]) -> dict[str, N]:
    """Return the sum of each named number over all processes; a name that a process lacks counts 0 there."""
    first, *others = all_gather_object(dict(numbers))
    for other in others:
        for name, number in other.items():
            first[name] = first[name] + number if name in first else number
    return first


@torch.no_grad()
def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients in all processes by their sum, added up in float32; frozen parameters are left out."""
    if current_process().world_size == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:  # the process may have no rows that this parameter matters for
            parameter.grad = torch.zeros_like(parameter, dtype=parameter.grad_dtype)
        bucket.append(parameter.grad)
        if sum(gradient.numel() for gradient in bucket) >= BUCKET:
            _sum(bucket)
            bucket = []
    if bucket:
        _sum(bucket)


def _sum(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten().float() for gradient in gradients])
    with _explain_lost_peers():
        dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


@contextmanager
def _explain_lost_peers() -> Iterator[None]:
    """Turn the error of a collective into a PeerFailedError: another process has ended, and reports why itself."""
    try:
        yield
    except RuntimeError as error:
        raise PeerFailedError(f"another process of this run has ended ({error})") from error


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raise in all processes, after the block, what one of them raises in it, so that none waits for it in vain.

    A UserError is raised by all. Any other error keeps its traceback in its own process, and is a PeerFailedError in
    the others. The block must call none of the functions above: a process that has raised would miss the call.
    """
    if current_process().world_size == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # noqa: BLE001  it is raised below, once the others know
        error = caught
    shared = error
    if error is not None and not isinstance(error, UserError):
        shared = PeerFailedError(f"process {current_process().rank} failed: {type(error).__name__}: {error}")
    errors = [each for each in all_gather_object(shared) if each is not None]
    if error is not None and shared is not error:
        raise error
    if errors:
        raise errors[0]


def on_rank_zero(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work` in the first process while the others wait; all return what it returns, or raise what it raises."""
    result: T | None = None
    with raise_on_all_ranks():
        if current_process().is_main:
            result = work(*args, **kwargs)
    return cast(T, all_gather_object(result)[0])
