"""What a device must hold: estimates by part, from formulas beside them.

They leave out what the framework itself takes, and kernels that need no memory for attention are assumed.
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
"""Bytes by name."""


def resident(recipe: RlRecipe | SftRecipe, size: Size, has_reference: bool) -> Parts:
    """Bytes that are held throughout: parameters in the run's dtype, of what is trained gradients and two moments."""
    width = width_of(recipe)
    trained_width = FLOAT32 if recipe.lora is not None else width  # PEFT keeps adapters in float32
    weights = size.parameters * width
    if base_bits(recipe):
        weights -= round(size.body * (width - BYTES_PER_WEIGHT))
    return {
        "weights": weights,
        "adapter": size.trained * trained_width if recipe.lora is not None else 0,
        "reference": weights if has_reference and recipe.lora is None and size.trained else 0,
        "gradients": size.trained * trained_width,
        "optimiser": 2 * size.trained * trained_width,
    }


def update(recipe: RlRecipe | SftRecipe, size: Size, work: Work, rows: int) -> Parts:
    """Bytes that a backward pass of `rows` completions needs besides: activations of all blocks, or of one at a time
    and the inputs of all; of the output head, see `head_bytes`."""
    if not size.trained:
        return {}
    tokens = round(rows * work.canvases * work.tokens)
    return {
        "update: activations": activations(size, tokens, recipe.gradient_checkpointing) * width_of(recipe),
        "update: output head": head_bytes(size, rows * work.length),
    }


def rollout(recipe: RlRecipe, size: Size, work: Work, rows: int) -> Parts:
    """Bytes that a denoiser call of `rows` completions needs besides, as many as are in flight at a time: those of
    `call`, with logits of the whole completion at the first call of a learned sampler, which a group shares."""
    rows = min(rows, recipe.rollout.max_in_flight or rows)
    read = rows * (recipe.rollout.block_length or work.length)
    if recipe.train != "policy":
        read = max(read, rows // work.group * work.length)
    return call(size, rows, work.tokens, read, width_of(recipe), recipe.rollout.cache != "none")


def call(size: Size, rows: int, tokens: int, read: int, width: int, has_cache: bool) -> Parts:
    """Bytes that a denoiser call of `rows` canvases of so many tokens needs besides the model: activations of one
    block, logits where they are read, and what a block cache keeps. `width`: bytes of a number."""
    inside = 4 * size.width + 2 * size.hidden
    return {
        "rollout: activations": rows * tokens * inside * width,
        "rollout: logits": 2 * FLOAT32 * read * size.vocabulary,
        "rollout: keys and values": rows * tokens * size.kept * width if has_cache else 0,
    }


def head_bytes(size: Size, scored: int) -> int:
    """Logits, log-probabilities and their gradients of small vocabularies, in float32; else what is kept for each
    scored state, and the logits that exist at a time."""
    if size.vocabulary <= FULL_LOGITS_MAX_VOCAB:
        return 3 * FLOAT32 * scored * size.vocabulary
    return 3 * FLOAT32 * scored * size.width + FLOAT32 * CHUNK["cuda"]


def activations(size: Size, tokens: int, is_checkpointed: bool) -> int:
    """Numbers that are kept for the backward pass: of a block ten in the model's width and four in that of its
    feed-forward part for each token."""
    inside = 10 * size.width + 4 * size.hidden
    return tokens * (size.layers * size.width + inside if is_checkpointed else size.layers * inside)


def width_of(recipe: RlRecipe | SftRecipe) -> int:
    return 2 if recipe.dtype == "bfloat16" else FLOAT32
