"""Collectives of processes that have the same model and a share of the rows each. A single process needs none.

All processes must make the same calls in the same order. So every value that decides whether a call is made (rewards,
budgets, requests to stop) must first be made equal in all of them (docs/decisions/0013).
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.tensor import DTensor

from diffpo.core.errors import PeerFailedError, UserError
from diffpo.distributed.joining import present
from diffpo.distributed.process import current_process

T = TypeVar("T")
N = TypeVar("N", int, float)
P = ParamSpec("P")

PATIENCE = timedelta(hours=2)
"""How long a process waits for the slowest one, since rollouts of a step may differ by much. Where a process has died,
or its machine, the others end long before that (`presence`)."""
JOINING = timedelta(minutes=5)
"""How long it may take to connect all processes to each other, once all have started."""
LOST_PEER = "another process of this run has ended; what was checkpointed stays, and --resume goes on"
BUCKET = 2**25
"""Number of float32 elements that are summed at a time: 128 MiB."""
_group: ContextVar[dist.ProcessGroup | None] = ContextVar("group", default=None)
"""What the collectives of this thread go through; None: the run's own group."""


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun has started into one group, and leave it unless the block raises.

    Should one of them vanish, all others end. Raises PeerFailedError where they do not all come, UserError where
    nothing says where they meet.
    """
    process = current_process()
    if process.world_size == 1 or dist.is_initialized():
        yield
        return
    if _would_share_stale_keys():
        raise UserError(
            "torchrun's --max-restarts may hang at a restart, on what the start before has left; set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment on all machines, or leave --max-restarts out"
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with present() as store:
        with _explain_lost_peers():
            size = process.world_size
            dist.init_process_group(backend, store=store, rank=process.rank, world_size=size, timeout=JOINING)
        _set_pg_timeout(PATIENCE)  # torch has no public way; torchtitan does the same
        try:
            yield
        except RuntimeError as error:  # of a collective that FSDP makes
            if not _is_of_a_connection(error):
                raise
            raise PeerFailedError(LOST_PEER) from error
    dist.destroy_process_group()


def _is_of_a_connection(error: RuntimeError) -> bool:
    """Return whether an error is of the connection between processes, as gloo and NCCL tell it."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _would_share_stale_keys() -> bool:
    """Return whether torchrun would restart its processes on one store, in which old keys stay (pytorch #135712)."""
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    return restarts not in ("", "0") and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def second_group() -> dist.ProcessGroup | None:
    """Return another group of all processes, on CPUs; None for a single process. All processes must call this."""
    if current_process().world_size == 1:
        return None
    with _explain_lost_peers():
        group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=PATIENCE)
        return group


def current_group() -> dist.ProcessGroup | None:
    """Return the group that the collectives of this thread go through; None: the run's own."""
    return _group.get()


@contextmanager
def through(group: dist.ProcessGroup | None) -> Iterator[None]:
    """Make this thread's collectives go through another group, so that they do not mix with those of other threads."""
    token = _group.set(group)
    try:
        yield
    finally:
        _group.reset(token)


def all_gather_columns(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return of each named tensor the rows of all processes, in the order of ranks, by one exchange for all names.

    The tensors have the same number of rows, and may have another in another process; names, dtypes, devices and the
    rest of the shapes must be the same in all.
    """
    if current_process().world_size == 1:
        return dict(columns)
    widths = [math.prod(column.shape[1:]) * column.element_size() for column in columns.values()]
    rows = [
        column.detach().flatten().clone().view(torch.uint8).view(len(column), width)
        for column, width in zip(columns.values(), widths, strict=True)
    ]
    packed = torch.cat(_all_gather_bytes(torch.cat(rows, dim=1)))
    return {
        name: part.flatten().clone().view(column.dtype).view(len(packed), *column.shape[1:])
        for (name, column), part in zip(columns.items(), packed.split(widths, dim=1), strict=True)
    }


def all_gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of ranks; see `all_gather_columns`."""
    return all_gather_columns({"rows": rows})["rows"]


def all_gather_json(value: T) -> list[T]:
    """Return the value of every process, in the order of ranks: a number, a text, None, or a list or dict of them."""
    if current_process().world_size == 1:
        return [value]
    own = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(bytes(text.flatten().tolist())) for text in _all_gather_bytes(own[:, None])]


def _all_gather_bytes(own: Tensor) -> list[Tensor]:
    """Return the bytes [rows, width] of every process. Numbers of rows may differ, and are exchanged first."""
    size = current_process().world_size
    with _explain_lost_peers():
        counts = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(size)]
        dist.all_gather(counts, torch.tensor([len(own)], device=own.device), group=current_group())
        lengths = [int(count) for count in counts]
        padded = own.new_zeros(max(lengths), own.shape[1])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(size)]
        dist.all_gather(found, padded, group=current_group())
    return [rows[:length] for rows, length in zip(found, lengths, strict=True)]


def all_reduce_metrics(numbers: Mapping[str, N]) -> dict[str, N]:
    """Return the sum of each named number over all processes; a name that a process lacks counts 0 there."""
    first, *others = all_gather_json(dict(numbers))
    for other in others:
        for name, number in other.items():
            first[name] = first[name] + number if name in first else number
    return first


@torch.no_grad()
def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients in all processes by their sum, added up in float32.

    Frozen parameters are left out, and those of sharded models, whose gradients have been summed on the way.
    """
    if current_process().world_size == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if not parameter.requires_grad or isinstance(parameter, DTensor):
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
        dist.all_reduce(flat, group=current_group())
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


@contextmanager
def _explain_lost_peers() -> Iterator[None]:
    """Turn the error of a collective into a PeerFailedError: another process has ended, and reports why itself."""
    try:
        yield
    except RuntimeError as error:
        raise PeerFailedError(LOST_PEER) from error


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
    told: list[str] = []
    if isinstance(error, UserError):
        told = ["UserError", str(error)]
    elif error is not None:
        told = ["PeerFailedError", f"process {current_process().rank} failed: {type(error).__name__}: {error}"]
    errors = [each for each in all_gather_json(told) if each]
    if error is not None and not isinstance(error, UserError):
        raise error
    if errors:
        kind, message = errors[0]
        raise (UserError if kind == "UserError" else PeerFailedError)(message) from error


def on_rank_zero(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work` in the first process while the others wait; all return what it returns, or raise what it raises.

    That is a number, a text, or None: what else it returns only `object_of_rank_zero` can send.
    """
    return _of_rank_zero(all_gather_json, work, *args, **kwargs)


def object_of_rank_zero(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the same for any object, at the start of a run: it travels pickled."""
    return _of_rank_zero(_all_gather_object, work, *args, **kwargs)


def _of_rank_zero(gather: Callable[[T], list[T]], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    result: T | None = None
    with raise_on_all_ranks():
        if current_process().is_main:
            result = work(*args, **kwargs)
    return gather(cast(T, result))[0]


def _all_gather_object(value: T) -> list[T]:
    if (size := current_process().world_size) == 1:
        return [value]
    found: list[Any] = [None] * size
    with _explain_lost_peers():
        dist.all_gather_object(found, value, group=current_group())
    return found
