"""How many processes share a copy of the model, and the model divided among them."""

from dataclasses import replace

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from diffpo.core.errors import UserError
from diffpo.core.output import say
from diffpo.distributed.process import current_process
from diffpo.distributed.sharding import REPLICATE, SHARD, shard_
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.layers import blocks_of
from diffpo.recipes.tables import RlRecipe, SftRecipe, base_bits
from diffpo.runs.dry_run.communication import Layout
from diffpo.runs.dry_run.machine import PROMPT_TOKENS
from diffpo.runs.dry_run.sharding import QUANTISED
from diffpo.runs.dry_run.size import measure_model
from diffpo.runs.dry_run.summary import GIB, Needs, work_of


def shard_model_(denoiser: ModelDenoiser, recipe: RlRecipe | SftRecipe) -> None:
    """Divide the model's weights among processes, where the recipe asks for it or they would not fit otherwise.

    Raises UserError where the recipe's layout is not that of the processes, and for a quantised model, which cannot be
    divided.
    """
    model, world_size = denoiser.model, current_process().world_size
    is_open = recipe.parallel.shard == recipe.parallel.replicate == "auto"
    automatic = 1
    if world_size > 1 and is_open and model.device.type == "cuda" and not base_bits(recipe):
        automatic = shard_to_fit(denoiser, recipe, torch.cuda.get_device_properties(model.device).total_memory)
    shard, replicate = recipe.parallel.layout_of(world_size, automatic)
    if shard == 1:
        return
    if base_bits(recipe):
        raise UserError(QUANTISED)
    if current_process().is_main and any(parameter.requires_grad for parameter in model.parameters()):
        say(f"the model is divided among {shard} processes, {replicate} time{'s' if replicate > 1 else ''}")
    model.config.dtype = model.dtype  # what it computes in: its weights may become float32
    mesh: DeviceMesh = init_device_mesh(model.device.type, (replicate, shard), mesh_dim_names=(REPLICATE, SHARD))
    shard_(model, blocks_of(model), mesh)


def shard_to_fit(denoiser: ModelDenoiser, recipe: RlRecipe | SftRecipe, device_bytes: int) -> int:
    """Return the least number of processes to divide the model among with which a step fits into each's memory.

    It is the dry run's estimate, with prompts of a common length.
    """
    model, process = denoiser.model, current_process()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    in_matrices = sum(p.numel() for p in blocks_of(model).parameters() if p.requires_grad and p.dim() == 2)
    size = replace(measure_model(model), trained=sum(p.numel() for p in trained), trained_matrices=in_matrices)
    layout = Layout(process.world_size // process.local_world_size, process.local_world_size)
    needs = Needs(recipe, size, work_of(recipe, PROMPT_TOKENS), PROMPT_TOKENS, layout)
    return needs.sharded_to_fit(device_bytes / GIB).layout.shard
