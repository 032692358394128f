"""The report of a dry run: what a run needs, from its recipe alone, without weights, data or accelerator.

Parameters and denoiser tokens are counted. Memory and arithmetic are estimates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from diffpo.core.errors import UserError
from diffpo.recipes import dump_recipe
from diffpo.recipes.tables import CustomEstimator, RlRecipe, SftRecipe, base_bits
from diffpo.recipes.tasks import downloads
from diffpo.runs.dry_run import memory
from diffpo.runs.dry_run.accelerators import GIGA, MEMORY_SHARE, PRODUCT_SHARE, TERA, Accelerator, Number
from diffpo.runs.dry_run.bill import Bill, bill
from diffpo.runs.dry_run.communication import Layout
from diffpo.runs.dry_run.pilot import Pilot
from diffpo.runs.dry_run.sharding import QUANTISED, gathered_bytes, shard_bytes, shard_sizes
from diffpo.runs.dry_run.size import Size, is_elsewhere, size_of
from diffpo.runs.dry_run.work import Work, arithmetic, has_reference, rl_work, sft_work

GIB = 2**30
FRAMEWORK_SHARE = 0.05
"""Of a device's memory, left for what the framework itself takes when a model is cut into shards."""


@dataclass(frozen=True)
class Needs:
    """What a recipe needs on each device of a layout."""

    recipe: RlRecipe | SftRecipe
    size: Size
    work: Work
    prompt_tokens: int
    layout: Layout
    is_whole: bool = True
    """Whether rollouts of a sharded model gather all of it, and not a block at a time."""

    @property
    def devices(self) -> int:
        """All devices, which share each step."""
        return self.layout.world

    @property
    def peak_bytes(self) -> int:
        """The bytes of a device that are taken at most at a time."""
        return _peak(*self.parts)

    @property
    def parts(self) -> tuple[memory.Parts, memory.Parts, memory.Parts]:
        """The bytes of a device that stay, those of updates, and those of rollouts."""
        shard = self.layout.shard
        resident, update, rollout = _parts(self.recipe, self.size, self.work, self.devices)
        gathered = gathered_bytes(self.recipe, self.size, shard, self.is_whole)
        if rollout:
            rollout = {**gathered["rollout"], **rollout}
        return shard_bytes(resident, shard), {**gathered["update"], **update}, rollout

    def with_prompts(self, prompt_tokens: int) -> "Needs":
        """Return the same with prompts of another length."""
        return replace(self, work=work_of(self.recipe, prompt_tokens), prompt_tokens=prompt_tokens)

    def sharded_to_fit(self, device_memory: Number) -> "Needs":
        """Return the same cut over the fewest devices with which it fits into so many GiB of each, or over most.

        A share is left for the framework, which is not counted. What the recipe says of it counts for more. Raises
        UserError where that cannot be.
        """
        parallel = self.recipe.parallel
        if parallel.shard != "auto" or parallel.replicate != "auto":
            shard, _ = parallel.layout_of(self.devices)
            if shard > 1 and base_bits(self.recipe):
                raise UserError(QUANTISED)
            return replace(self, layout=replace(self.layout, shard=shard))
        found = self
        for shard in shard_sizes(self.layout) if not base_bits(self.recipe) else ():
            found = replace(self, layout=replace(self.layout, shard=shard))
            if found.peak_bytes <= (1 - FRAMEWORK_SHARE) * device_memory * GIB:
                break
        return found

    def bill(self, device: Accelerator, pilot: Pilot | None = None) -> Bill:
        """Return what a step takes on these devices, in seconds."""
        return bill(self.recipe, self.size, self.work, self.layout, device, pilot, self.is_whole)

    def text(self) -> str:
        """Return the model's size, the memory of a device by part, and the work of a step."""
        devices = self.devices
        titles = {
            "model": _model(self.recipe, self.size),
            f"memory of {'the device' if devices == 1 else f'each of {devices} devices'}, GiB": _memory(self.parts),
            f"one step, with prompts of {self.prompt_tokens} tokens": _step(self.recipe, self.size, self.work),
        }
        return "\n".join(line for title, rows in titles.items() for line in _section(title, rows))


def needs_of(recipe: RlRecipe | SftRecipe, prompt_tokens: int, devices: int = 1, nodes: int = 1) -> Needs:
    """Return what a recipe needs, with prompts of so many tokens, on nodes of so many devices, unsharded.

    Raises UserError for a base whose size is not known, and where a step's prompts cannot be divided among the devices.
    """
    if recipe.base is None:
        raise UserError("a dry run tells of published models, and this recipe has no base; set it")
    is_trained = isinstance(recipe, SftRecipe) or recipe.train != "controller"
    size = size_of(recipe.base, recipe.lora.rank if recipe.lora is not None else None, is_trained)
    work = work_of(recipe, prompt_tokens)
    prompts = work.completions // work.group_size
    layout = Layout(nodes, devices)
    if prompts % layout.world:
        raise UserError(
            f"{prompts} prompts of a step cannot be divided among {layout.world} devices; change one of them"
        )
    return Needs(recipe, size, work, prompt_tokens, layout)


@dataclass(frozen=True)
class Machine:
    """The machine that a run is meant for, and what is known of it."""

    device: Accelerator
    nodes: int = 1
    devices: int = 1
    """Of a node."""
    device_memory: Number | None = None
    """GiB of a device; None: those of the accelerator."""
    pilot: Pilot | None = None


def dry_run_report(
    recipe: RlRecipe | SftRecipe, prompt_tokens: int, devices: int = 1, machine: Machine | None = None
) -> str:
    """Return the resolved recipe, followed by what it needs on each of `devices` devices.

    `prompt_tokens` is the assumed length of a prompt in its chat template, which only the data would tell. With a
    `machine`, whose devices count then, also whether it fits there, and how long it takes. Raises UserError as
    `needs_of` does.
    """
    if machine is None:
        return "\n".join([dump_recipe(recipe), needs_of(recipe, prompt_tokens, devices).text()])
    capacity = machine.device.memory if machine.device_memory is None else machine.device_memory
    whole = needs_of(recipe, prompt_tokens, machine.devices, machine.nodes)
    needs = whole.sharded_to_fit(capacity)
    lines = [line for title, rows in _bill_sections(needs, capacity, machine) for line in _section(title, rows)]
    return "\n".join([dump_recipe(recipe), needs.text(), *lines])


def _bill_sections(needs: Needs, capacity: Number, machine: Machine) -> Iterator[tuple[str, Iterator[tuple[str, str]]]]:
    """Yield the sections that depend on the machine: whether it fits, and the time."""
    yield "does it fit?", iter([("", fits(needs, capacity))])
    found, device, pilot = needs.bill(machine.device, machine.pilot), machine.device, machine.pilot
    yield f"time on {needs.devices} x {device.name}, {_basis(device, needs.work, pilot)}", _time(found, device, pilot)


def fits(needs: Needs, capacity: Number) -> str:
    """Return a sentence that says whether the run fits into so many GiB of each device, and with how much left."""
    peak, shard = needs.peak_bytes / GIB, needs.layout.shard
    how = "whole on each device" if shard == 1 else f"the model cut over {shard} devices"
    if peak <= capacity:
        return f"fits in {capacity:.4g} GiB with {capacity - peak:.1f} GiB left, {how}"
    return (
        f"does not fit in {capacity:.4g} GiB: it needs {peak:.1f}, {how}; take "
        f"{'a larger parallel.shard, ' if shard < needs.devices else ''}more or larger devices, an adapter "
        "(lora), or smaller micro-batches (micro_batch_size, rollout.max_in_flight)"
    )


def _basis(device: Accelerator, work: Work, pilot: Pilot | None) -> str:
    """Return what the computed times rest on."""
    rates = "rates measured" if device.is_measured else "computed from data sheets"
    if pilot is not None:
        return f"{rates}, calls of the pilot"
    return f"{rates}, one token a call at worst" if work.is_bound else rates


def _amount(value: Number) -> str:
    """Return a number with two decimals or, where these would say little, two digits."""
    return f"{value:12,.2f}" if value >= 0.1 or value == 0 else f"{value:12.2g}"


def _time(found: Bill, device: Accelerator, pilot: Pilot | None) -> Iterator[tuple[str, str]]:
    for name, seconds in found.seconds.items():
        yield f"{name}, computed", f"{_amount(seconds)} s  {seconds / found.step:4.0%}"
    yield "a step, computed", f"{_amount(found.step)} s"
    yield "the run, computed", f"{_amount(found.hours)} hours of {found.steps:,.0f} steps"
    yield "all devices, computed", f"{_amount(found.device_hours)} device-hours"
    if pilot is not None:
        yield "denoiser calls of each, measured", f"{_amount(pilot.nfe)} in {pilot.steps} steps of {pilot.name}"
        yield "the pilot's step, measured", f"{_amount(pilot.seconds)} s on its own machine"
    if device.is_measured:
        rate, copied = device.float32 / TERA, device.memory_bandwidth / GIGA
        yield "measured", f"{rate:.3g} TFLOP/s of products, {copied:.1f} GB/s of memory"
    else:
        shares = f"{PRODUCT_SHARE:.0%} of its peak in products, {MEMORY_SHARE:.0%} of memory's and links' bandwidth"
        yield "assumed, not measured", shares
    yield "left out", "slow graders, evaluations, checkpoints, waiting for the slowest device"


def work_of(recipe: RlRecipe | SftRecipe, prompt_tokens: int) -> Work:
    return sft_work(recipe, prompt_tokens) if isinstance(recipe, SftRecipe) else rl_work(recipe, prompt_tokens)


def _section(title: str, rows: Iterator[tuple[str, str]]) -> list[str]:
    return [f"# {title}", *(f"{name:<40}{text}" if name else text for name, text in rows), ""]


def _model(recipe: RlRecipe | SftRecipe, size: Size) -> Iterator[tuple[str, str]]:
    yield "parameters", f"{size.parameters:,}"
    yield "trained", f"{size.trained:,}"
    if recipe.base is not None and is_elsewhere(recipe.base):
        yield "to download", f"{recipe.base}, about {2 * size.parameters / 1e9:.1f} GB as published (bfloat16)"
    for name in downloads(recipe.task):
        yield "to download", f"data set {name}"


def _memory(parts: tuple[memory.Parts, memory.Parts, memory.Parts]) -> Iterator[tuple[str, str]]:
    """Yield the parts that stay, then those of updates and of rollouts, which are not there at the same time."""
    resident, update, rollout = parts
    for name, amount in {**resident, **update, **rollout}.items():
        if amount > 0:
            yield name, f"{amount / GIB:9.2f}" if amount >= 0.005 * GIB else "below 0.01"
    yield "at most at a time", f"{_peak(resident, update, rollout) / GIB:9.2f}"


def _parts(
    recipe: RlRecipe | SftRecipe, size: Size, work: Work, devices: int
) -> tuple[memory.Parts, memory.Parts, memory.Parts]:
    """Return the bytes of a device that stay, those of updates, and those of rollouts."""
    rows = work.completions // devices
    rollout: memory.Parts = {}
    if isinstance(recipe, SftRecipe):
        is_compared, micro_batch_size = False, recipe.micro_batch_size
    else:
        is_compared, micro_batch_size = has_reference(recipe.objective), recipe.objective.micro_batch_size
        rollout = memory.rollout_bytes(recipe, size, work, rows)
    resident = memory.resident_bytes(recipe, size, is_compared)
    updated = -(-work.updated // devices)
    update = memory.update_bytes(recipe, size, work, min(updated, micro_batch_size or updated))
    return resident, update, rollout


def _peak(resident: memory.Parts, update: memory.Parts, rollout: memory.Parts) -> int:
    return _sum(resident) + max(_sum(update), _sum(rollout))


def _step(recipe: RlRecipe | SftRecipe, size: Size, work: Work) -> Iterator[tuple[str, str]]:
    at_most = ", at most" if work.is_bound else ""
    yield "completions", f"{work.completions:,}"
    if work.calls:
        yield f"denoiser calls of each{at_most}", f"{work.calls:,}"
        yield f"denoiser tokens of rollouts{at_most}", f"{work.rollout_tokens:,.0f}"
    if isinstance(recipe, RlRecipe) and isinstance(recipe.estimator, CustomEstimator):
        yield "canvases of a completion", f"not known of {recipe.estimator.kind}, counted as 1"
    yield "denoiser tokens of the update", f"{work.pass_tokens * work.passes:,.0f}"
    yield f"arithmetic{at_most}", f"{arithmetic(size, work, recipe.lora is not None) / 1e12:,.1f} TFLOP"


def _sum(parts: memory.Parts) -> int:
    return sum(parts.values())
