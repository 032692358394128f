"""The `budget` and `checkpoint` tables: when a run ends, and what it leaves on the way."""

from collections.abc import Iterable

from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Count


class BudgetRecipe(Strict):
    """A run ends at the first limit it reaches."""

    steps: Count | None = None
    denoiser_calls: Count | None = None

    def problems(self) -> Iterable[str]:
        if self.steps is None and self.denoiser_calls is None:
            yield "neither steps nor denoiser_calls is given, so the run would not end; set one"


class CheckpointRecipe(Strict):
    every: Count = 20
    keep: Count = 2
