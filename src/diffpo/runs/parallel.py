"""How many processes share a copy of the model, and the model divided among them."""

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from diffpo.core.errors import UserError
from diffpo.distributed.process import current_process
from diffpo.distributed.sharding import REPLICATE, SHARD, shard_
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.layers import blocks_of
from diffpo.recipes.tables import ParallelRecipe, RlRecipe, SftRecipe, base_bits


def shard_model_(denoiser: ModelDenoiser, recipe: RlRecipe | SftRecipe) -> None:
    """Divide the model's weights among processes, where the recipe asks for it or they would not fit otherwise.

    Raises UserError as `layout_of` does, and for a quantised model, which cannot be divided.
    """
    shard, replicate = layout_of(recipe.parallel, current_process().world_size)
    if shard == 1:
        return
    if base_bits(recipe):
        raise UserError("parallel.shard cannot divide a quantised model (lora.bits); leave one of the two out")
    model = denoiser.model
    model.config.dtype = model.dtype  # what it computes in: its weights may become float32
    mesh: DeviceMesh = init_device_mesh(model.device.type, (replicate, shard), mesh_dim_names=(REPLICATE, SHARD))
    shard_(model, blocks_of(model), mesh)


def layout_of(parallel: ParallelRecipe, world_size: int, automatic: int = 1) -> tuple[int, int]:
    """Return over how many processes a copy of the model is divided, and how many copies there are.

    `automatic` is the first where the recipe leaves both open. Raises UserError unless their product is the number of
    processes.
    """
    copies = None if parallel.replicate == "auto" else parallel.replicate
    if parallel.shard != "auto":
        shard = parallel.shard
    else:
        shard = automatic if copies is None else max(1, world_size // copies)
    replicate = copies or max(1, world_size // shard)
    if shard * replicate != world_size:
        started = f"{world_size} process{'es were' if world_size > 1 else ' was'} started"
        raise UserError(
            f"parallel.shard {shard} x parallel.replicate {replicate} is {shard * replicate}, and {started}; start as "
            "many, or change one of the two"
        )
    return shard, replicate
