"""From the options of a dry run to the machine that it is about."""

import math
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.runs.dry_run.accelerators import CPU, Accelerator, Number, named_accelerator, with_rates
from diffpo.runs.dry_run.bill import rollout_calls, update_call
from diffpo.runs.dry_run.pilot import Pilot, read_pilot
from diffpo.runs.dry_run.summary import Machine, needs_of

PROMPT_TOKENS = 200
"""Assumed where neither an option nor a pilot tells."""
Rates = tuple[Number | None, Number | None, Number | None]
"""TFLOP/s of products, GB/s of memory, GB/s of links; None: the accelerator's."""


def machine_for(
    recipe: RlRecipe | SftRecipe,
    prompt_tokens: int | None,
    layout: tuple[int, int],
    device: str,
    device_memory: Number | None,
    pilot: Path | None,
    rates: Rates,
) -> tuple[Machine, int]:
    """Return the machine that options describe, and the tokens of a prompt.

    Raises UserError for an unknown accelerator, rates and memory that are none, and a pilot that tells nothing.
    """
    if device_memory is not None and not (math.isfinite(device_memory) and device_memory > 0):
        raise UserError(f"--device-memory {device_memory:g} is no memory; give GiB above 0")
    if pilot is not None and isinstance(recipe, SftRecipe):
        raise UserError("--pilot tells the denoiser calls of rollouts, which SFT has none of; leave it out")
    told = read_pilot(pilot) if pilot is not None else None
    if told is not None and told.task != recipe.task.kind:
        raise UserError(
            f"--pilot {pilot} was trained on {told.task}, and this recipe's task is {recipe.task.kind}, whose prompts "
            "and calls are others; name a run on the same task"
        )
    tokens = prompt_tokens or (told.prompt_tokens if told is not None else PROMPT_TOKENS)
    nodes, devices = layout
    found = _measured(recipe, tokens, layout, told) if device == CPU else named_accelerator(device)
    return Machine(with_rates(found, *rates), nodes, devices, device_memory, told), tokens


def _measured(recipe: RlRecipe | SftRecipe, tokens: int, layout: tuple[int, int], pilot: Pilot | None) -> Accelerator:
    """Return this CPU, measured on canvases as the recipe's calls have them."""
    from diffpo.runs.device import DTYPES
    from diffpo.runs.dry_run.measure import measured_cpu

    needs = needs_of(recipe, tokens, layout[1], layout[0])
    world = needs.layout.world
    if isinstance(recipe, RlRecipe):
        call = rollout_calls(recipe, needs.work, world, pilot)[0]
    else:
        call = update_call(recipe, needs.work, world, pilot)
    return measured_cpu(needs.size, call.canvases, needs.work.tokens, DTYPES[recipe.dtype])
