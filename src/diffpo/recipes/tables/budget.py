"""The `budget` and `checkpoint` tables: when a run ends, and what it leaves on the way."""

from collections.abc import Iterable
from typing import Literal

from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Duration


class BudgetRecipe(Strict):
    """A run ends at the first limit it reaches."""

    steps: Duration | None = None
    """Steps: rollouts of `rollout.prompts_per_step` prompts each, and what is learned from them. Not set: no limit."""
    denoiser_calls: Duration | None = None
    """Calls of the denoiser on one canvas, in rollouts and updates together. Not set: no limit."""

    def problems(self) -> Iterable[str]:
        if self.steps is None and self.denoiser_calls is None:
            yield "neither steps nor denoiser_calls is given, so the run would not end; set one"


class CheckpointRecipe(Strict):
    """What a run leaves on its way, to go on from."""

    every: Duration = 20
    """Steps from one checkpoint to the next."""
    keep: Duration = 2
    """How many checkpoints are kept, the newest ones."""
    background: bool | Literal["auto"] = "auto"
    """Write checkpoints of a whole model in shards while the run goes on, from a copy in main memory. `auto`: on GPUs,
    where the copies of a machine's processes take at most half of its memory."""
