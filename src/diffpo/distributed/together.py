"""Processes of one run read the same command line: what one of them refuses, all refuse, and none waits for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffpo.distributed.process import current_process


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes of the run for the block. Where there are none, torch is not imported."""
    if current_process().world_size == 1:
        yield
        return
    from diffpo.distributed.collectives import process_group

    with process_group():
        yield


@contextmanager
def refused_together() -> Iterator[None]:
    """Raise in all processes what one of them raises in the block: a recipe that is on one machine alone."""
    if current_process().world_size == 1:
        yield
        return
    from diffpo.distributed.collectives import raise_on_all_ranks

    with raise_on_all_ranks():
        yield
