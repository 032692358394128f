"""The line with which a verb ends: what to do next."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase

from diffpo.core.output import warn
from diffpo.distributed.process import current_process


def say_next(*words: str) -> None:
    """Print `next: diffpo ...`, quoted for a shell, to stderr: what a verb was asked for is alone on stdout."""
    if current_process().is_main:
        warn(f"next: {shlex.join(['diffpo', *words])}")


def say_next_run(verb: str, recipe: str, overrides: Sequence[str] | None) -> None:
    """Say how a recipe that was looked at is run, in a folder that is not there yet."""
    free = next((f"runs/{name}" for name in ascii_lowercase if not Path("runs", name).exists()), "runs/new")
    say_next(verb, recipe, *(overrides or ()), "--out", free)


def say_next_of_run(run: str) -> None:
    """Say how a run is measured or, where that is done, shown."""
    say_next("report" if Path(run, "eval.json").is_file() else "eval", run)
