"""The bill of a run: seconds of a step by part, from counted work and an accelerator's rates (docs/bill.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from diffpo.recipes.tables import MaskDraws, RlRecipe, SftRecipe
from diffpo.runs.dry_run.accelerators import Accelerator, Number
from diffpo.runs.dry_run.communication import Layout, Traffic, communication_seconds
from diffpo.runs.dry_run.cost import (
    CALL_OPERATORS,
    COMPLETION_OPERATORS,
    DRAW_OPERATORS,
    DRAWN_BYTES,
    FLOAT32,
    Call,
    Model,
    backward_seconds,
    forward_seconds,
    optimiser_seconds,
)
from diffpo.runs.dry_run.memory import bytes_per_number
from diffpo.runs.dry_run.pilot import Pilot
from diffpo.runs.dry_run.size import Size
from diffpo.runs.dry_run.work import Work


@dataclass(frozen=True)
class Bill:
    """What a step takes on each device, and how many steps there are."""

    seconds: Mapping[str, Number]
    """Of a step, by part, one after the other."""
    steps: Number
    """Of the run."""
    world: int
    """Devices."""

    @property
    def step(self) -> Number:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def hours(self) -> Number:
        """Hours of the run."""
        return self.step * self.steps / 3600

    @property
    def device_hours(self) -> Number:
        """Hours of all devices together."""
        return self.hours * self.world


def bill(
    recipe: RlRecipe | SftRecipe,
    size: Size,
    work: Work,
    layout: Layout,
    device: Accelerator,
    pilot: Pilot | None = None,
    is_whole: bool = True,
) -> Bill:
    """Return the bill of a recipe whose step is `work`, on the devices of `layout`.

    With a pilot its denoiser calls, its sharing of canvases and its share of dropped groups are used. `is_whole`:
    rollouts of a sharded model gather it once, and not a block at a time at each call.
    """
    model = model_of(recipe, size)
    calls = rollout_calls(recipe, work, layout.world, pilot) if isinstance(recipe, RlRecipe) else ()
    passes = update_call(recipe, work, layout.world, pilot)
    has_update = bool(size.trained and work.backward)
    rollout = sum(forward_seconds(model, call, device, DRAWN_BYTES) for call in calls)
    started = sum(call.times for call in calls) * CALL_OPERATORS
    if calls:
        nfe = work.calls if pilot is None else pilot.nfe
        started += work.completions / layout.world * (COMPLETION_OPERATORS + nfe * DRAW_OPERATORS)
    rollout += started * device.operator_seconds
    update = optimiser = 0.0
    if has_update:
        update = work.passes * forward_seconds(model, passes, device)
        update += work.backward * backward_seconds(model, passes, device)
        is_muon = recipe.optimizer.kind == "muon"
        optimiser = work.backward * optimiser_seconds(model, device, is_muon, layout.shard)
    gathers = 0.0 if not calls else 1.0 if is_whole else sum(call.times for call in calls)
    traffic = Traffic(
        rollout_gathers=gathers,
        passes=(work.passes + work.backward) * passes.times if has_update else 0.0,
        backwards=work.backward * passes.times if has_update else 0.0,
        steps=work.backward if has_update else 0,
        weights=size.parameters * model.width + model.adapter * FLOAT32,
        gradients=size.trained * FLOAT32,
        blocks=size.layers + 1,
    )
    seconds = {
        "rollout": rollout,
        "update": update,
        "optimiser": optimiser,
        "communication": communication_seconds(traffic, layout, device),
    }
    return Bill({name: value for name, value in seconds.items() if value}, steps_of(recipe, work, pilot), layout.world)


def model_of(recipe: RlRecipe | SftRecipe, size: Size) -> Model:
    """Return the model as the recipe computes it."""
    adapter = size.trained if recipe.lora is not None else 0
    return Model(size, bytes_per_number(recipe), adapter, recipe.gradient_checkpointing)


def rollout_calls(recipe: RlRecipe, work: Work, world: int, pilot: Pilot | None) -> tuple[Call, ...]:
    """Return the calls of a device's rollouts: those of whole canvases and, with a cache, those of a part.

    A device's completions are decoded side by side, `max_in_flight` at a time, and each takes equally many calls.
    """
    rows = work.completions / world
    in_flight = min(rows, recipe.rollout.max_in_flight or rows)
    calls = work.calls if pilot is None else pilot.nfe
    shown = (calls - 1 + 1 / work.group_size) / calls if pilot is None else pilot.shown
    block = recipe.rollout.block_length or work.length
    blocks = work.length / block
    per_block = max(1.0, calls / blocks)
    outputs = block * (per_block + 1) / (2 * per_block)
    whole = Call(in_flight * shown, work.tokens, outputs, work.tokens, times=calls * rows / in_flight)
    if recipe.rollout.cache == "none" or calls <= blocks:
        return (whole,)
    part = block if recipe.rollout.cache == "dual" else (work.length + block) / 2
    first = replace(whole, times=whole.times * blocks / calls)
    return first, replace(whole, tokens=part, times=whole.times * (1 - blocks / calls))


def update_call(recipe: RlRecipe | SftRecipe, work: Work, world: int, pilot: Pilot | None) -> Call:
    """Return a device's micro-batches of one pass of an update.

    A completion's tokens are read on one of its canvases each; of random masks, half are on each.
    """
    rows = work.updated / world * (pilot.updated if pilot is not None else 1.0)
    settings = recipe.objective if isinstance(recipe, RlRecipe) else recipe
    in_pass = min(rows, settings.micro_batch_size or rows)
    is_drawn = isinstance(recipe, SftRecipe) or isinstance(recipe.estimator, MaskDraws)
    outputs = work.length / 2 if is_drawn else work.length / max(1.0, work.canvases)
    return Call(in_pass * work.canvases, work.tokens, outputs, work.tokens, times=rows / in_pass if in_pass else 0.0)


def steps_of(recipe: RlRecipe | SftRecipe, work: Work, pilot: Pilot | None) -> Number:
    """Return the steps of the run; a budget of denoiser calls is divided by the canvases of a step."""
    if isinstance(recipe, SftRecipe):
        return recipe.steps
    limits = [float(recipe.budget.steps)] if recipe.budget.steps is not None else []
    if recipe.budget.denoiser_calls is not None:
        rollouts = sum(call.canvases * call.times for call in rollout_calls(recipe, work, 1, pilot))
        updates = update_call(recipe, work, 1, pilot)
        limits.append(recipe.budget.denoiser_calls / (rollouts + work.passes * updates.canvases * updates.times))
    return min(limits)
