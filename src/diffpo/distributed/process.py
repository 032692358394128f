"""The rank of this process among those of its run, as torchrun sets it in the environment. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from diffpo.core.errors import UserError

SET_BY_TORCHRUN = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_"),
)
"""What the names of torchrun's variables begin with."""


@dataclass(frozen=True)
class Process:
    """This process among those of its run, on one machine or on many. Without torchrun there is one process."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Index of the device of the machine that belongs to this process."""
    local_world_size: int = 1
    """How many processes of the run this machine has."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0


def current_process() -> Process:
    """Return this process's rank and the number of processes.

    Raises UserError for variables that torchrun does not set in this way.
    """
    if "LOCAL_RANK" not in os.environ:
        return Process()
    given = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    given["LOCAL_WORLD_SIZE"] = os.environ.get("LOCAL_WORLD_SIZE", given["WORLD_SIZE"])
    numbers = [int(value) if value.isascii() and value.isdigit() and len(value) < 7 else -1 for value in given.values()]
    process = Process(*numbers)
    is_apart = process.rank >= process.world_size or process.local_rank >= process.local_world_size
    if min(numbers) < 0 or is_apart or process.local_world_size > process.world_size:
        told = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise UserError(
            f"the environment has {told}, which are no ranks as torchrun sets them; start it by torchrun, or without "
            "LOCAL_RANK"
        )
    return process


def rank_slice(count: int, unit: int = 1) -> slice:
    """Return this process's slice of `count` rows, in whole units of `unit` rows.

    The slices of the processes are in the order of their ranks, and differ by one unit at most. A single process has
    all rows.
    """
    process, units = current_process(), count // unit
    start, end = (units * rank // process.world_size for rank in (process.rank, process.rank + 1))
    return slice(start * unit, end * unit)


def most_rows(count: int, unit: int = 1) -> int:
    """Return how many of `count` rows the process with the largest slice has."""
    return -(-(count // unit) // current_process().world_size) * unit


def require_divisible(name: str, count: int) -> None:
    """Raise UserError unless `count`, which the option `name` sets, can be divided equally among the processes."""
    if count % (size := current_process().world_size):
        raise UserError(
            f"{name} {count} cannot be shared by {size} processes; make it a multiple of {size}, or start fewer"
        )


def require_single_process(what: str) -> None:
    """Raise UserError if there are several processes; `what` begins the message."""
    if current_process().world_size > 1:
        raise UserError(f"{what} is for one process; start it without torchrun")


def without_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what torchrun sets in it, for a process that belongs to no others."""
    return {name: value for name, value in environment.items() if not name.startswith(SET_BY_TORCHRUN)}
