"""What a device holds where the model is cut into shards (FSDP), each on a device of its own."""

from collections.abc import Iterator, Mapping

from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.runs.dry_run.communication import Layout
from diffpo.runs.dry_run.memory import FLOAT32, Parts, bytes_per_number
from diffpo.runs.dry_run.size import Size

QUANTISED = "parallel.shard cannot divide a quantised model (lora.base_bits); leave one of the two out"
GATHERED_BLOCKS = 2
"""Blocks that are whole at a time: one is computed, the next one arrives."""


def shard_bytes(resident: Parts, shard: int) -> Parts:
    """Return what a device holds all the time, of `shard` that hold the model together.

    Each part is divided among them. Masters are the shards themselves then, and no copy in the model's dtype stays.
    """
    if shard == 1:
        return resident
    is_copy = {"weights"} if resident["master weights"] else set()
    return {name: 0 if name in is_copy else -(-amount // shard) for name, amount in resident.items()}


def gathered_bytes(recipe: RlRecipe | SftRecipe, size: Size, shard: int, is_whole: bool = True) -> Mapping[str, Parts]:
    """Return what is gathered from the shards, besides what stays: in updates, and in rollouts.

    Updates gather a block and the next one, the embedding and the output head, and make their gradients in float32
    before these are divided. Rollouts gather the whole model or, if not `is_whole`, a block at a time at each call.
    """
    if shard == 1:
        return {"update": {}, "rollout": {}}
    width = bytes_per_number(recipe)
    ends = 2 * size.width * size.vocabulary
    block = (size.parameters - ends) // size.layers
    blocks = (GATHERED_BLOCKS * block + ends) * width
    gradients = (block + ends) * FLOAT32 if recipe.lora is None and size.trained else 0
    return {
        "update": {"update: gathered blocks": blocks, "update: a block's gradients": gradients},
        "rollout": {"rollout: gathered weights": size.parameters * width if is_whole else blocks},
    }


def shard_sizes(layout: Layout) -> Iterator[int]:
    """Yield the numbers of devices over which a model may be cut, smallest first.

    They divide the world, and each other's nodes: a part of a node, or whole nodes.
    """
    for shard in range(1, layout.world + 1):
        if layout.world % shard == 0 and (layout.devices % shard == 0 or shard % layout.devices == 0):
            yield shard
