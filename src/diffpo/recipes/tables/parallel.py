"""How the processes of a run share its model."""

from typing import Literal

from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Count


class ParallelRecipe(Strict):
    """The processes form a grid: `replicate` times `shard` of them. Neither changes what a run learns."""

    shard: Literal["auto"] | Count = "auto"
    """How many processes divide the weights, gradients and moments among them; auto: as few as their memory allows."""
    replicate: Literal["auto"] | Count = "auto"
    """How many times the model is there; auto: the number of processes divided by `shard`."""
