"""How the processes of a run share its model."""

from typing import Literal

from diffpo.core.errors import UserError
from diffpo.recipes.strict import Strict
from diffpo.recipes.tables.fields import Count


class ParallelRecipe(Strict):
    """The processes form a grid: `replicate` times `shard` of them. Neither changes what a run learns."""

    shard: Literal["auto"] | Count = "auto"
    """How many processes divide the weights, gradients and moments among them; auto: as few as their memory allows."""
    replicate: Literal["auto"] | Count = "auto"
    """How many times the model is there; auto: the number of processes divided by `shard`."""

    def layout_of(self, world_size: int, automatic: int = 1) -> tuple[int, int]:
        """Return over how many of `world_size` processes a copy of the model is divided, and how many copies there are.

        `automatic` is the first where both are left open. Raises UserError unless their product is `world_size`.
        """
        copies = None if self.replicate == "auto" else self.replicate
        open_shard = automatic if copies is None else max(1, world_size // copies)
        shard = open_shard if self.shard == "auto" else self.shard
        replicate = copies or max(1, world_size // shard)
        if shard * replicate != world_size:
            there = f"there {'are' if world_size > 1 else 'is'} {world_size} process{'es' if world_size > 1 else ''}"
            raise UserError(
                f"parallel.shard {shard} x parallel.replicate {replicate} is {shard * replicate}, and {there}; start "
                "as many, or change one of the two"
            )
        return shard, replicate
