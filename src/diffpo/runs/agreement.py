"""Processes of one run must have been started with the same things, or they would train something that nobody named."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers

from diffpo.core.errors import UserError
from diffpo.distributed.collectives import all_gather_json, raise_on_all_ranks
from diffpo.distributed.process import current_process
from diffpo.models.fingerprint import fingerprint
from diffpo.models.model_paths import RECIPE, model_folder
from diffpo.recipes import dump_recipe
from diffpo.recipes.strict import Strict
from diffpo.tasks.base import Task

LOOKED_AT = 256
"""Train problems that stand for a data file."""


VISIBLE_WITHIN = 30.0
"""Seconds within which a network's file system shows on one machine what another has written."""


def require_same_start(recipe: Strict, out: Path | None = None) -> None:
    """Raise UserError, in all processes, where one has another recipe, output or libraries than the first."""
    if current_process().world_size > 1:
        versions = {"torch": str(torch.__version__), "transformers": transformers.__version__}
        _require_same(versions, {"recipe": dump_recipe(recipe), "output (--out)": str(out)})


def require_same_inputs(task: Task, base: str | None) -> None:
    """Raise UserError, in all processes, where one reads other train problems or another base than the first."""
    if current_process().world_size > 1:
        with raise_on_all_ranks():
            problems = task.problems("train", LOOKED_AT, seed=0)
            read = "\0".join(f"{problem.prompt}\0{problem.answer}" for problem in problems)
            model = "" if base is None else fingerprint(model_folder(Path(base)))
        _require_same({}, {"data": read, "base": model})


def require_same_questions(questions: Sequence[str], model: str) -> None:
    """Raise UserError, in all processes, where one has other questions or another model than the first."""
    if current_process().world_size > 1:
        with raise_on_all_ranks():
            weights = fingerprint(model_folder(Path(model)))
        _require_same({}, {"data": "\0".join(questions), "model": weights})


def require_shared_folder(run: Path) -> None:
    """Raise UserError, in all processes, where one does not see the folder that the first has made for the run."""
    with raise_on_all_ranks():
        until = time.monotonic() + VISIBLE_WITHIN
        while not (run / RECIPE).is_file():
            if time.monotonic() > until:
                who = f"process {current_process().rank} does not see {run}"
                raise UserError(f"{who}; a run's folder must be on a file system that all its machines share")
            time.sleep(0.1)


def _require_same(shown: Mapping[str, str], hidden: Mapping[str, str]) -> None:
    """Compare facts with those of the first process. Of the hidden ones only a hash travels."""
    own = dict(shown) | {
        name: hashlib.sha256(value.encode(errors="backslashreplace")).hexdigest() for name, value in hidden.items()
    }
    first, *others = all_gather_json(own)
    for rank, other in enumerate(others, start=1):
        if differing := [name for name in own if other[name] != first[name]]:
            told = ", ".join(f"{name} {other[name]} and not {first[name]}" for name in differing if name in shown)
            named = ", ".join(f"another {name}" for name in differing if name in hidden)
            raise UserError(
                f"process {rank} has {', '.join(filter(None, (told, named)))} than process 0; start all processes with "
                "the same command, files and libraries"
            )
