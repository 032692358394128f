"""Which of several processes this one is, as torchrun says in the environment. Imports no torch."""

import os
from dataclasses import dataclass

from diffpo.core.errors import UserError


@dataclass(frozen=True)
class Process:
    """The processes of a run, all on this machine. Without torchrun there is one."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Which of the machine's devices is this process's own."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0


def current_process() -> Process:
    if "LOCAL_RANK" not in os.environ:
        return Process()
    return Process(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


def rank_slice(count: int, unit: int = 1) -> slice:
    """This process's part of `count` rows, in whole units of `unit` rows: all of them where it is alone.

    The parts lie in the order of the processes, and differ by one unit at most.
    """
    here, units = current_process(), count // unit
    start, end = (units * rank // here.world_size for rank in (here.rank, here.rank + 1))
    return slice(start * unit, end * unit)


def require_divisible(name: str, count: int) -> None:
    """Raises UserError where the processes cannot have equal shares."""
    if count % (size := current_process().world_size):
        raise UserError(
            f"{name} {count} cannot be shared by {size} processes; make it a multiple of {size}, or start fewer"
        )


def require_single_process(what: str) -> None:
    """Raises UserError where there are several processes."""
    if current_process().world_size > 1:
        raise UserError(f"{what} is for one process; start it without torchrun")
