"""The `budget` and `checkpoint` tables: when a run ends, and what it leaves on the way."""

from collections.abc import Iterable

from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Duration


class BudgetRecipe(Strict):
    """A run ends at the first limit it reaches."""

    steps: Duration | None = None
    denoiser_calls: Duration | None = None

    def problems(self) -> Iterable[str]:
        if self.steps is None and self.denoiser_calls is None:
            yield "neither steps nor denoiser_calls is given, so the run would not end; set one"


class CheckpointRecipe(Strict):
    every: Duration = 20
    keep: Duration = 2
