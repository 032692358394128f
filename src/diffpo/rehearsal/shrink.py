"""Make a recipe small enough for a rehearsal; what it tests stays as it is. Imports no torch."""

from pathlib import Path
from typing import Any

from diffpo.recipes.dump import plain_table
from diffpo.recipes.strict import recipe_of
from diffpo.recipes.tables import RlRecipe, SftRecipe, SourceSettings

STEPS = 3
"""The last of them is repeated from the checkpoint of the one before."""
PROMPTS, GROUP, ROWS = 2, 4, 4
BLOCK, BLOCKS = 8, 2
"""Tokens of a block, and blocks of a completion, at most; a completion of one block may be as long as both."""
MORE_TOKENS = 256
"""Beside the longest prompt, in a row of SFT of a given length."""


def short_lengths(length: int, block: int | None) -> tuple[int, int | None]:
    """Return a short completion's length and that of its blocks, which divides it; one of several blocks keeps two."""
    if block is None:
        return min(length, BLOCK * BLOCKS), None
    short = min(block, BLOCK)
    return short * min(length // block, BLOCKS), short


def shrunk_rl(
    recipe: RlRecipe, base: Path, *, has_cuda: bool, has_bitsandbytes: bool, prompt_limit: int | None
) -> RlRecipe:
    """Return the recipe with few steps, prompts and short completions, on another base.

    `prompt_limit`: tokens of the longest prompt, None where only the model limits them.
    """
    table = _shrunk(recipe, base, has_cuda, has_bitsandbytes)
    rollout, objective = table["rollout"], table["objective"]
    if isinstance(recipe.task, SourceSettings):
        length, block = short_lengths(recipe.task.completion_length, recipe.rollout.block_length)
        table["task"]["completion_length"] = length
        _set(rollout, "block_length", block)
        _set(table["task"], "max_prompt_tokens", prompt_limit)
    rollout["prompts_per_step"] = min(rollout["prompts_per_step"], PROMPTS)
    rollout["group_size"] = min(rollout["group_size"], GROUP)
    _limit(rollout, max_in_flight=PROMPTS * GROUP - 1)
    _limit(objective, num_iterations=2, micro_batch_size=ROWS, batch=2 * ROWS, capacity=64)
    controller = table["controller"]
    _limit(controller["optimizer"], warmup=2)
    _limit(controller.get("warm_start", {}), count=4, steps=4)
    if "greedy_stage" in controller:  # so that the last step belongs to it
        controller["greedy_stage"]["share"] = max(controller["greedy_stage"]["share"], 1.01 / STEPS)
    table["budget"] = {"steps": STEPS}
    return recipe_of(RlRecipe, table, "the rehearsal's recipe")


def shrunk_sft(
    recipe: SftRecipe,
    base: Path | None,
    *,
    has_cuda: bool,
    has_bitsandbytes: bool,
    prompt_limit: int | None,
    longest_prompt: int,
    completion_length: int | None,
) -> SftRecipe:
    """Return the recipe with few steps and rows, on another base if it has one.

    `completion_length` is that of the canvas, as long as the answers ask for; None: as it is.
    """
    table = _shrunk(recipe, base, has_cuda, has_bitsandbytes)
    if recipe.sequence_length is not None:
        table["sequence_length"] = min(recipe.sequence_length, longest_prompt + MORE_TOKENS)
    elif isinstance(recipe.task, SourceSettings):
        _set(table["task"], "max_prompt_tokens", prompt_limit)
        _set(table["task"], "completion_length", completion_length or recipe.task.completion_length)
    _limit(table, batch=ROWS, micro_batch_size=ROWS // 2)
    table["steps"] = min(recipe.steps, STEPS)
    if "early_stopping" in table:
        table["early_stopping"] |= {"start": 0, "every": 1, "problems_per_check": 4}
    return recipe_of(SftRecipe, table, "the rehearsal's recipe")


def _shrunk(recipe: RlRecipe | SftRecipe, base: Path | None, has_cuda: bool, has_bitsandbytes: bool) -> dict[str, Any]:
    """Return the recipe's table with what both kinds of recipes have made small."""
    table = plain_table(recipe)
    _set(table, "base", None if base is None else str(base))
    table["compile"] = False  # it takes minutes
    if not has_cuda:
        table |= {"device": "cpu", "dtype": "float32", "attention": "sdpa"}
    if recipe.lora is not None:
        rank = min(recipe.lora.rank, 8)
        table["lora"] |= {"rank": rank, "alpha": max(1, round(recipe.lora.alpha * rank / recipe.lora.rank))}
        if not has_bitsandbytes:
            table["lora"].pop("base_bits", None)
    _limit(table["optimizer"], warmup=2)
    table["checkpoint"]["every"] = 1
    table["track"] = []
    return table


def _limit(table: dict[str, Any], **most: int) -> None:
    """Lower the options that the table has to at most so much."""
    table.update({name: min(table[name], limit) for name, limit in most.items() if name in table})


def _set(table: dict[str, Any], name: str, value: Any) -> None:
    """Set an option or, to None, leave it out, as TOML does."""
    table.pop(name, None)
    if value is not None:
        table[name] = value
