"""The report of a dry run: what a run needs, from its recipe alone, without weights, data or accelerator.

Parameters and denoiser tokens are counted. Memory and arithmetic are estimates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from diffpo.core.errors import UserError
from diffpo.recipes import dump_recipe
from diffpo.recipes.tables import CustomEstimator, RlRecipe, SftRecipe
from diffpo.recipes.tasks import downloads
from diffpo.runs.dry_run import memory
from diffpo.runs.dry_run.size import Size, is_elsewhere, size_of
from diffpo.runs.dry_run.work import Work, arithmetic, has_reference, rl_work, sft_work

GIB = 2**30


@dataclass(frozen=True)
class Needs:
    """What a recipe needs on each of `devices` devices."""

    recipe: RlRecipe | SftRecipe
    size: Size
    work: Work
    prompt_tokens: int
    devices: int

    @property
    def peak_bytes(self) -> int:
        """The bytes of a device that are taken at most at a time."""
        return _peak(*_parts(self.recipe, self.size, self.work, self.devices))

    def with_prompts(self, prompt_tokens: int) -> "Needs":
        """Return the same with prompts of another length."""
        return replace(self, work=_work(self.recipe, prompt_tokens), prompt_tokens=prompt_tokens)

    def text(self) -> str:
        """Return the model's size, the memory of a device by part, and the work of a step."""
        devices = self.devices
        titles = {
            "model": _model(self.recipe, self.size),
            f"memory of {'the device' if devices == 1 else f'each of {devices} devices'}, GiB": _memory(
                self.recipe, self.size, self.work, devices
            ),
            f"one step, with prompts of {self.prompt_tokens} tokens": _step(self.recipe, self.size, self.work),
        }
        return "\n".join(line for title, rows in titles.items() for line in _section(title, rows))


def needs_of(recipe: RlRecipe | SftRecipe, prompt_tokens: int, devices: int = 1) -> Needs:
    """Return what a recipe needs, with prompts of so many tokens.

    Raises UserError for a base whose size is not known, and where a step's prompts cannot be divided among the devices.
    """
    if recipe.base is None:
        raise UserError("a dry run tells of published models, and this recipe has no base; set it")
    is_trained = isinstance(recipe, SftRecipe) or recipe.train != "controller"
    size = size_of(recipe.base, recipe.lora.rank if recipe.lora is not None else None, is_trained)
    work = _work(recipe, prompt_tokens)
    prompts = work.completions // work.group_size
    if prompts % devices:
        raise UserError(f"{prompts} prompts of a step cannot be divided among {devices} devices; change one of them")
    return Needs(recipe, size, work, prompt_tokens, devices)


def dry_run_report(recipe: RlRecipe | SftRecipe, prompt_tokens: int, devices: int = 1) -> str:
    """Return the resolved recipe, followed by what it needs on each of `devices` devices.

    `prompt_tokens` is the assumed length of a prompt in its chat template, which only the data would tell. Raises
    UserError as `needs_of` does.
    """
    needs = needs_of(recipe, prompt_tokens, devices)
    return "\n".join([dump_recipe(recipe), needs.text()])


def _work(recipe: RlRecipe | SftRecipe, prompt_tokens: int) -> Work:
    return sft_work(recipe, prompt_tokens) if isinstance(recipe, SftRecipe) else rl_work(recipe, prompt_tokens)


def _section(title: str, rows: Iterator[tuple[str, str]]) -> list[str]:
    return [f"# {title}", *(f"{name:<40}{text}" for name, text in rows), ""]


def _model(recipe: RlRecipe | SftRecipe, size: Size) -> Iterator[tuple[str, str]]:
    yield "parameters", f"{size.parameters:,}"
    yield "trained", f"{size.trained:,}"
    if recipe.base is not None and is_elsewhere(recipe.base):
        yield "to download", f"{recipe.base}, about {2 * size.parameters / 1e9:.1f} GB as published (bfloat16)"
    for name in downloads(recipe.task):
        yield "to download", f"data set {name}"


def _memory(recipe: RlRecipe | SftRecipe, size: Size, work: Work, devices: int) -> Iterator[tuple[str, str]]:
    """Yield the parts that stay, then those of updates and of rollouts, which are not there at the same time."""
    resident, update, rollout = _parts(recipe, size, work, devices)
    for name, amount in {**resident, **update, **rollout}.items():
        yield name, f"{amount / GIB:9.2f}"
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
