"""How many processes share a copy of the model, and the model divided among them."""

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from diffpo.core.errors import UserError
from diffpo.core.output import say
from diffpo.distributed.collectives import on_rank_zero
from diffpo.distributed.process import current_process
from diffpo.distributed.sharding import REPLICATE, SHARD, shard_
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.layers import blocks_of
from diffpo.recipes.tables import RlRecipe, SftRecipe, base_bits
from diffpo.runs.dry_run.communication import Layout
from diffpo.runs.dry_run.machine import PROMPT_TOKENS
from diffpo.runs.dry_run.sharding import QUANTISED
from diffpo.runs.dry_run.size import size_by_config
from diffpo.runs.dry_run.summary import GIB, Needs, work_of


def mesh_of(denoiser: ModelDenoiser, recipe: RlRecipe | SftRecipe) -> DeviceMesh | None:
    """Return how the run's models are laid out over the processes; None where each holds all of them.

    The first process decides for all, which must call this together. Raises UserError where the recipe's layout is not
    that of the processes, and for a quantised model, which cannot be divided.
    """
    shard, replicate = on_rank_zero(_layout, denoiser, recipe)
    if shard == 1:
        return None
    if current_process().is_main:
        say(f"the model is divided among {shard} processes, {replicate} time{'s' if replicate > 1 else ''}")
    return init_device_mesh(denoiser.model.device.type, (replicate, shard), mesh_dim_names=(REPLICATE, SHARD))


def _layout(denoiser: ModelDenoiser, recipe: RlRecipe | SftRecipe) -> list[int]:
    device, world_size = denoiser.model.device, current_process().world_size
    is_open = recipe.parallel.shard == recipe.parallel.replicate == "auto"
    automatic = 1
    if world_size > 1 and is_open and device.type == "cuda" and not base_bits(recipe):
        automatic = shard_to_fit(denoiser, recipe, torch.cuda.get_device_properties(device).total_memory)
    shard, replicate = recipe.parallel.layout_of(world_size, automatic)
    if shard > 1 and base_bits(recipe):
        raise UserError(QUANTISED)
    return [shard, replicate]


def shard_to_fit(denoiser: ModelDenoiser, recipe: RlRecipe | SftRecipe, device_bytes: int) -> int:
    """Return the least number of processes to divide the model among with which a step fits into each's memory.

    It is the dry run's estimate, with prompts of a common length. Where machines have different numbers of processes,
    all count as machines of one.
    """
    process = current_process()
    is_trained = isinstance(recipe, SftRecipe) or recipe.train != "controller"
    rank = None if recipe.lora is None else recipe.lora.rank
    size = size_by_config(type(denoiser.model), denoiser.model.config, rank, is_trained)
    local = process.local_world_size if process.world_size % process.local_world_size == 0 else 1
    layout = Layout(process.world_size // local, local)
    needs = Needs(recipe, size, work_of(recipe, PROMPT_TOKENS), PROMPT_TOKENS, layout)
    return needs.sharded_to_fit(device_bytes / GIB).layout.shard


def shard_model_(denoiser: ModelDenoiser, mesh: DeviceMesh | None) -> None:
    """Divide a model's weights among the processes of a mesh, if there is one. Nothing is sent."""
    if mesh is not None:
        model = denoiser.model
        model.config.dtype = model.dtype  # what it computes in: its weights may become float32
        shard_(model, blocks_of(model), mesh)
