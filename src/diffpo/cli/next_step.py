"""The line with which a verb ends: what to do next."""

import shlex
from collections.abc import Sequence

from diffpo.core.output import warn
from diffpo.distributed.process import current_process


def say_next(*words: str) -> None:
    """Print `next: diffpo ...`, quoted for a shell, to stderr: what a verb was asked for is alone on stdout."""
    if current_process().is_main:
        warn(f"next: {shlex.join(['diffpo', *words])}")


def say_next_run(verb: str, recipe: str, overrides: Sequence[str] | None) -> None:
    """Say how a recipe that was looked at is run."""
    say_next(verb, recipe, *(overrides or ()), "--out", "runs/a")
