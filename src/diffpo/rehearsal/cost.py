"""Compare what the run would take, by the dry run's figures, with the machine that it is meant for."""

from collections.abc import Iterator

from diffpo.core.errors import UserError
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.rehearsal.findings import Findings
from diffpo.runs.dry_run.summary import GIB, needs_of


def check_devices(recipe: RlRecipe | SftRecipe, devices: int, findings: Findings) -> bool:
    """Add that a step cannot be divided among the devices; return whether it can."""
    if isinstance(recipe, SftRecipe):
        name, count = "batch", recipe.batch
    else:
        name, count = "rollout.prompts_per_step", recipe.rollout.prompts_per_step
    if count % devices:
        findings.fault(
            f"a step cannot be divided among {devices} devices: {name} is {count}; make it a multiple of {devices}"
        )
    return count % devices == 0


def check_cost(
    recipe: RlRecipe | SftRecipe,
    prompt_tokens: int,
    longest_prompt: int,
    devices: int,
    device_memory: float | None,
    findings: Findings,
) -> str:
    """Return the dry run's figures with prompts of so many tokens, and add that they do not fit into a device.

    Memory is compared with the longest prompt, in GiB.
    """
    if recipe.base is None:
        return ""
    try:
        needs = needs_of(recipe, prompt_tokens, devices)
    except UserError as error:
        if str(error) not in findings.faults:
            findings.note(f"what a step would take is not known: {error}")
        return ""
    peak = needs.with_prompts(longest_prompt).peak_bytes / GIB
    if device_memory is not None and peak > device_memory:
        findings.fault(
            f"a device has {device_memory:g} GiB, and the run takes about {peak:.1f} GiB of it at a time, with prompts "
            f"of {longest_prompt} tokens; {', '.join(_advice(recipe))}, or take larger devices"
        )
    return needs.text()


def _advice(recipe: RlRecipe | SftRecipe) -> Iterator[str]:
    """Yield what takes less memory and is not done yet."""
    is_sft = isinstance(recipe, SftRecipe)
    yield f"lower {'micro_batch_size' if is_sft else 'objective.micro_batch_size or rollout.max_in_flight'}"
    if not recipe.gradient_checkpointing:
        yield "set gradient_checkpointing = true"
    if recipe.dtype == "float32":
        yield "set dtype = 'bfloat16'"
    if recipe.lora is None:
        yield "give a lora table"
    elif recipe.lora.base_bits is None:
        yield "set lora.base_bits = 4"
