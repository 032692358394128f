"""When a run waits for its checkpoints: till they are written, or only till what they are of has been copied."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

from torch import Tensor
from torch.distributed.tensor import DTensor

from diffpo.core.errors import Stopped, UserError
from diffpo.core.output import warn
from diffpo.distributed.background import Background
from diffpo.distributed.collectives import all_gather_json
from diffpo.distributed.process import current_process
from diffpo.recipes.tables import CheckpointRecipe
from diffpo.runs.checkpoint import Begun, begin_checkpoint, complete
from diffpo.runs.resume import HasState, RunProgress
from diffpo.sampling.policy import Policy

LARGEST_SHARE = 0.5
"""Share of a machine's memory that the copies of its processes may take where nobody asked for them."""
NOT_IN_SHARDS = (
    "diffpo: checkpoint.background is for whole models in shards (parallel.shard), and this run has none: it waits for "
    "its checkpoints"
)


class Checkpoints:
    """Writes the checkpoints of a run (runs/checkpoint.py), of large models while the run goes on.

    All processes make the same calls. When the block is left, what was begun is finished, unless it is left by an
    interruption: then what is half written is no checkpoint, and the next start removes it.
    """

    def __init__(self, run: Path, recipe: CheckpointRecipe) -> None:
        self._run, self._recipe = run, recipe
        self._background: Background | None = None
        self._is_told = False

    @property
    def has_failed(self) -> bool:
        """Whether one could not be written, as this process knows by now; the next `save`, or the end, says why."""
        return self._background is not None and self._background.has_failed

    def save(
        self, progress: RunProgress, policy: Policy, to_restore: Mapping[str, HasState], is_last: bool = False
    ) -> None:
        """Write a checkpoint (runs/checkpoint.py), or begin to. The one before is finished first.

        Raises UserError where one of the two cannot be written.
        """
        if self._background is not None:
            self._background.wait()
        begun = begin_checkpoint(self._run, progress, policy, to_restore, self._recipe.keep, is_last)
        if is_last or not self._is_in_background(begun):
            complete(begun)
            return
        if self._background is None:
            self._background = Background()
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in begun.shards.items()}
        self._background.start(partial(complete, replace(begun, shards=copies)))

    def _is_in_background(self, begun: Begun) -> bool:
        if not begun.shards:
            if self._recipe.background is True and not self._is_told and current_process().is_main:
                warn(NOT_IN_SHARDS)
                self._is_told = True
            return False
        if self._recipe.background != "auto":
            return self._recipe.background
        is_on_gpu = all(tensor.device.type == "cuda" for tensor in begun.shards.values())
        return all(all_gather_json(is_on_gpu and fits_in_memory(begun.shards)))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._background is None or not (error is None or isinstance(error, Exception)):
            return
        try:
            self._background.wait()
        except UserError as failed:
            if error is None or isinstance(error, Stopped):
                raise
            if current_process().is_main and not isinstance(error, UserError):  # one sentence, and often of one cause
                warn(f"diffpo: {failed}")


def fits_in_memory(shards: Mapping[str, Tensor]) -> bool:
    """Return whether copies of all parts that this machine's processes have take a fair share of its memory."""
    own = sum((each.to_local() if isinstance(each, DTensor) else each).nbytes for each in shards.values())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return own * current_process().local_world_size <= memory * LARGEST_SHARE
