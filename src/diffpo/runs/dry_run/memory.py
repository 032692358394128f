"""Estimate the memory that a device needs, part by part.

What the framework itself takes is left out, and attention kernels are assumed to need no memory.
"""

from collections.abc import Mapping

from diffpo.models.denoiser import FULL_LOGITS_MAX_VOCAB
from diffpo.models.lm_head import CHUNK
from diffpo.models.quantised import BYTES_PER_WEIGHT
from diffpo.recipes.tables import RlRecipe, SftRecipe, base_bits
from diffpo.runs.dry_run.size import Size
from diffpo.runs.dry_run.work import Work

FLOAT32 = 4
Parts = Mapping[str, int]
"""Bytes of each part, by its name."""


def resident_bytes(recipe: RlRecipe | SftRecipe, size: Size, has_reference: bool) -> Parts:
    """Return the bytes that are held all the time: parameters and, for the trained ones, gradients and moments.

    What is trained is float32: an adapter, or the masters of a bfloat16 model's weights. AdamW keeps two moments of a
    parameter, Muon one.
    """
    width = bytes_per_number(recipe)
    has_masters = recipe.lora is None and width < FLOAT32
    weights = size.parameters * width
    if base_bits(recipe):
        weights -= round(size.block_weights * (width - BYTES_PER_WEIGHT))
    return {
        "weights": weights,
        "adapter": size.trained * FLOAT32 if recipe.lora is not None else 0,
        "reference": weights if has_reference and recipe.lora is None and size.trained else 0,
        "master weights": size.trained * FLOAT32 if has_masters else 0,
        "gradients": size.trained * FLOAT32,
        "optimiser": (2 * size.trained - (size.trained_matrices if recipe.optimizer.kind == "muon" else 0)) * FLOAT32,
    }


def update_bytes(recipe: RlRecipe | SftRecipe, size: Size, work: Work, rows: int) -> Parts:
    """Return the bytes that a backward pass of `rows` completions needs besides the resident ones.

    They hold activations of all blocks or, with gradient checkpointing, of one block and the inputs of all; what a
    float32 adapter on another model adds to them; and what the output head needs (`head_bytes`).
    """
    if not size.trained:
        return {}
    tokens, width = round(rows * work.canvases * work.tokens), bytes_per_number(recipe)
    kept = activations(size, tokens, recipe.gradient_checkpointing) * width
    if recipe.lora is not None and width < FLOAT32:
        kept += adapter_inputs(size, tokens, recipe.gradient_checkpointing) * FLOAT32
    return {
        "update: activations": kept,
        "update: output head": head_bytes(size, rows * work.length),
    }


def rollout_bytes(recipe: RlRecipe, size: Size, work: Work, rows: int) -> Parts:
    """Return the bytes that a denoiser call of a rollout of `rows` completions needs besides the resident ones.

    No more rows count than are in flight at a time. Where a controller of bounds is trained, its first call gives
    logits of the whole completion, once for all completions of a group; a commit policy's inputs are kept for all
    completions of the step.
    """
    is_commit_policy = recipe.controller.is_commit_policy
    rows = min(rows, recipe.rollout.max_in_flight or rows)
    num_outputs = rows * (recipe.rollout.block_length or work.length)
    if recipe.train != "policy" and not is_commit_policy:
        num_outputs = max(num_outputs, rows // work.group_size * work.length)
    has_cache = recipe.rollout.cache != "none"
    call = call_bytes(size, rows, work.tokens, num_outputs, bytes_per_number(recipe), has_cache)
    if not is_commit_policy:
        return call
    num_inputs = size.width if recipe.controller.kind == "planner" else 1
    return {**call, "rollout: inputs of sets": work.completions * work.length**2 * num_inputs * FLOAT32}


def call_bytes(size: Size, rows: int, tokens: int, num_outputs: int, width: int, has_cache: bool) -> Parts:
    """Return the bytes that a denoiser call of `rows` canvases of `tokens` tokens each needs besides the model.

    They hold the activations of one block, float32 logits and their softmax at `num_outputs` positions, and the block
    cache's keys and values. `width` is the bytes of a number.
    """
    inside = 4 * size.width + 2 * size.hidden
    return {
        "rollout: activations": rows * tokens * inside * width,
        "rollout: logits": 2 * FLOAT32 * num_outputs * size.vocabulary,
        "rollout: keys and values": rows * tokens * size.cached * width if has_cache else 0,
    }


def head_bytes(size: Size, scored: int) -> int:
    """Return the bytes that scoring `scored` positions takes in the output head, in float32.

    With a small vocabulary they are logits, log-probabilities and gradients of all positions; else three vectors of the
    model's width for each position, and one chunk of logits.
    """
    if size.vocabulary <= FULL_LOGITS_MAX_VOCAB:
        return 3 * FLOAT32 * scored * size.vocabulary
    return 3 * FLOAT32 * scored * size.width + FLOAT32 * CHUNK["cuda"]


def activations(size: Size, tokens: int, is_checkpointed: bool) -> int:
    """Return how many numbers are kept for the backward pass of `tokens` tokens.

    In a block that is, for each token, ten vectors of the model's width and four of the feed-forward part's.
    """
    inside = 10 * size.width + 4 * size.hidden
    return tokens * (size.layers * size.width + inside if is_checkpointed else size.layers * inside)


def adapter_inputs(size: Size, tokens: int, is_checkpointed: bool) -> int:
    """Return how many float32 numbers are kept beside the `activations` where the model is not float32.

    PEFT keeps the input of each of a block's seven matrices in the adapter's dtype.
    """
    return tokens * (6 * size.width + size.hidden) * (1 if is_checkpointed else size.layers)


def bytes_per_number(recipe: RlRecipe | SftRecipe) -> int:
    """Return the bytes of one of the model's numbers, in the run's dtype."""
    return 2 if recipe.dtype == "bfloat16" else FLOAT32
