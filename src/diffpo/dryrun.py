"""What a run would take, told from its recipe alone: no weights, no data, no accelerator.

Parameters and denoiser tokens are counted. Memory and arithmetic are estimates from the formulas beside them; they
leave out what the framework itself takes, and kernels that need no memory for attention are assumed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from diffpo.checkpoint import model_folder
from diffpo.errors import UserError
from diffpo.hub import is_hub_name
from diffpo.likelihood.head import CHUNK
from diffpo.models.adapters import add_adapter
from diffpo.models.denoiser import WHOLE, Denoiser
from diffpo.models.dream import DREAM
from diffpo.models.family import Family
from diffpo.models.llada import LLADA
from diffpo.models.loading import read_config
from diffpo.objective import Objective
from diffpo.recipes import dump_recipe
from diffpo.recipes.parts import objective_of
from diffpo.recipes.schema import (
    CoupledEstimator,
    EstimatorRecipe,
    ExactEstimator,
    ManyTimesMeanFieldEstimator,
    MaskDraws,
    MeanFieldEstimator,
    RlRecipe,
    TopKRule,
    TwoTimesMeanFieldEstimator,
)

LLADA_8B = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "mlp_hidden_size": 12288, "vocab_size": 126464}
DREAM_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
}
PUBLISHED: Mapping[str, tuple[Family, Mapping[str, int]]] = {
    "GSAI-ML/LLaDA-8B-Base": (LLADA, LLADA_8B),
    "GSAI-ML/LLaDA-8B-Instruct": (LLADA, LLADA_8B),
    "GSAI-ML/LLaDA-1.5": (LLADA, LLADA_8B),
    "Dream-org/Dream-v0-Base-7B": (DREAM, DREAM_7B),
    "Dream-org/Dream-v0-Instruct-7B": (DREAM, DREAM_7B),
    "apple/DiffuCoder-7B-Base": (DREAM, DREAM_7B),
    "apple/DiffuCoder-7B-Instruct": (DREAM, DREAM_7B),
    "apple/DiffuCoder-7B-cpGRPO": (DREAM, DREAM_7B),
}
"""Sizes of models that need not be here to be told of."""


@dataclass(frozen=True)
class Size:
    """Of a model with what is trained of it."""

    parameters: int
    trained: int
    body: int
    """Parameters of the blocks' matrices, which each token passes through once."""
    layers: int
    width: int
    hidden: int
    """Of the feed-forward part."""
    vocabulary: int


@dataclass(frozen=True)
class Work:
    """One RL step, in canvases of `tokens` tokens."""

    completions: int
    tokens: int
    calls: int
    """Of a completion's rollout: exact for fixed rules, at most this for adaptive ones."""
    canvases: float
    """That one pass of the update shows, for each completion."""
    passes: int
    """Over the update's canvases, forward: inner steps, the base, and the old policy where it is read by itself."""
    backward: int


def dry_run(recipe: RlRecipe, prompt_tokens: int) -> str:
    """The resolved recipe, then what it takes. `prompt_tokens`: of a framed prompt, which only the data know."""
    size, work = size_of(recipe), work_of(recipe, prompt_tokens)
    lines = [dump_recipe(recipe), *_section("model", _model_lines(recipe, size))]
    lines += _section("memory of one device, GiB", memory_lines(recipe, size, work))
    lines += _section(f"one step, with prompts of {prompt_tokens} tokens", work_lines(size, work, recipe))
    return "\n".join(lines)


def _section(title: str, rows: Iterator[tuple[str, str]]) -> list[str]:
    return [f"# {title}", *(f"{name:<36}{text}" for name, text in rows), ""]


def _model_lines(recipe: RlRecipe, size: Size) -> Iterator[tuple[str, str]]:
    yield "parameters", f"{size.parameters:,}"
    yield "trained", f"{size.trained:,}"
    if not Path(recipe.base).exists() and is_hub_name(recipe.base):
        yield "to download", f"{recipe.base}, about {2 * size.parameters / 1e9:.1f} GB as published (bfloat16)"


def size_of(recipe: RlRecipe) -> Size:
    """Counted on a model without memory. Raises UserError for a base that is neither here nor known."""
    family, fields = PUBLISHED.get(recipe.base, (None, {}))
    if family is None:
        if not Path(recipe.base).exists() and is_hub_name(recipe.base):
            raise UserError(f"the size of {recipe.base} is not known here; known are {', '.join(PUBLISHED)}")
        family, config = read_config(model_folder(Path(recipe.base)))
    else:
        config = family.config(**fields)
    with torch.device("meta"):
        model = family.model(config)
        blocks = block_list(model)
        body = sum(p.numel() for p in blocks.parameters() if p.dim() == 2)
        total = sum(p.numel() for p in model.parameters())
        if recipe.lora is not None:
            add_adapter(Denoiser(model, 0, ()), recipe.lora.rank, recipe.lora.alpha, seed=0)
    trained = 0 if recipe.learn == "sampler" else sum(p.numel() for p in model.parameters() if p.requires_grad)
    embedding = model.get_input_embeddings().weight
    hidden = max(p.shape[0] for p in blocks[0].parameters() if p.dim() == 2 and p.shape[1] == embedding.shape[1])
    return Size(total, trained, body, len(blocks), embedding.shape[1], hidden, embedding.shape[0])


def block_list(model: PreTrainedModel) -> nn.ModuleList:
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))


def work_of(recipe: RlRecipe, prompt_tokens: int) -> Work:
    length = recipe.task.completion_length
    rule = recipe.rollout.rule
    calls = -(-length // rule.k) if isinstance(rule, TopKRule) else length
    objective: Objective = objective_of(recipe.objective)
    reads_base = recipe.objective.kl > 0 or objective.reads != "none"
    is_cut = recipe.objective.micro_batch is not None and objective.reads != "none"
    steps = 0 if recipe.learn == "sampler" else recipe.objective.inner_steps
    return Work(
        completions=recipe.rollout.prompts * recipe.rollout.group,
        tokens=prompt_tokens + length,
        calls=calls,
        canvases=canvases_of(recipe.estimator, recipe.rollout.group, calls),
        passes=(steps + reads_base + is_cut) if steps else 0,
        backward=steps,
    )


def canvases_of(estimator: EstimatorRecipe, group: int, calls: int) -> float:
    """Canvases that one pass shows for each completion; those that a group shares are counted once (docs/math.md)."""
    match estimator:
        case MeanFieldEstimator():
            return 1.0 if estimator.prompt_mask_rate > 0 else 1 / group
        case TwoTimesMeanFieldEstimator():
            return 1 + 1 / group
        case ManyTimesMeanFieldEstimator():
            return min(estimator.boundaries, calls) - 1 + 1 / group
        case ExactEstimator():
            return calls - 1 + 1 / group
        case CoupledEstimator():
            return 2.0 if estimator.weighting == "plain" else 2 + 1 / group
        case MaskDraws():
            return float(estimator.draws)


def memory_lines(recipe: RlRecipe, size: Size, work: Work) -> Iterator[tuple[str, str]]:
    """Parameters, their gradients and AdamW's two moments in the run's dtype; activations of one micro-batch."""
    width = 2 if recipe.dtype == "bfloat16" else 4
    adapter = 4 if recipe.lora is not None else width  # PEFT keeps adapters in float32
    rows = work.canvases * (recipe.objective.micro_batch or work.completions)
    reads_base = recipe.objective.kl > 0 or objective_of(recipe.objective).reads != "none"
    kept = 1 if recipe.gradient_checkpointing else 8 + 4 * size.hidden / size.width
    inside = 8 + 4 * size.hidden / size.width if recipe.gradient_checkpointing else 0
    scored = recipe.task.completion_length * (recipe.objective.micro_batch or work.completions)
    parts = {
        "weights": size.parameters * width,
        "adapter": size.trained * adapter if recipe.lora is not None else 0,
        "reference": size.parameters * width if reads_base and recipe.lora is None and size.trained else 0,
        "gradients": size.trained * adapter,
        "optimiser": 2 * size.trained * adapter,
        "activations": rows * work.tokens * size.width * width * (kept * size.layers + inside) if size.trained else 0,
        "output head": head_bytes(size, scored) if size.trained else 0,
    }
    for name, amount in parts.items():
        yield name, f"{amount / 2**30:9.2f}"
    yield "together", f"{sum(parts.values()) / 2**30:9.2f}"


def head_bytes(size: Size, scored: int) -> int:
    """Logits, log-probabilities and their gradients of small vocabularies; else what is kept for each state, and the
    logits that exist at a time."""
    if size.vocabulary <= WHOLE:
        return 3 * 4 * scored * size.vocabulary
    return 3 * 4 * scored * size.width + 4 * CHUNK["cuda"]


def work_lines(size: Size, work: Work, recipe: RlRecipe) -> Iterator[tuple[str, str]]:
    """Two operations for each weight and token, as many again for attention's products, twice that backwards.

    Backwards through an adapter the frozen matrices need no gradients of their own: once instead of twice.
    """
    is_bound = not isinstance(recipe.rollout.rule, TopKRule)
    rollout = work.completions * (work.calls - 1 + 1 / recipe.rollout.group) * work.tokens
    update = work.completions * work.canvases * work.tokens
    per_token = 2 * size.body + 4 * size.layers * size.width * work.tokens
    head = 2 * size.width * size.vocabulary * recipe.task.completion_length / work.tokens
    back = 1 if recipe.lora is not None else 2
    flops = (per_token + head) * (rollout + update * (work.passes + back * work.backward))
    yield "completions", f"{work.completions:,}"
    yield f"denoiser calls of each{', at most' if is_bound else ''}", f"{work.calls:,}"
    yield f"denoiser tokens of rollouts{', at most' if is_bound else ''}", f"{rollout:,.0f}"
    yield "denoiser tokens of the update", f"{update * work.passes:,.0f}"
    yield f"arithmetic{', at most' if is_bound else ''}", f"{flops / 1e12:,.1f} TFLOP"
