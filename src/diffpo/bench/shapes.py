"""The random model and prompts of the benchmarks, and the arithmetic that they need at least."""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.layers import initialise
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM

PROMPT, COMPLETION, BLOCK = 128, 256, 32


def random_denoiser(vocabulary: int, stop_ids: tuple[int, ...] = (), **config: Any) -> ModelDenoiser:
    """Return a random LLaDA of 4 layers, d 256, 4 heads and mlp 768, changed by `config`. The last id is the mask."""
    shape = {"d_model": 256, "n_layers": 4, "n_heads": 4, "mlp_hidden_size": 768, "initializer_range": 0.2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LLaDAModelLM(LLaDAConfig(**shape | config, vocab_size=vocabulary, rope_theta=5e5))
    return ModelDenoiser(model.eval(), vocabulary - 1, stop_ids)


def random_model(config: LLaDAConfig, dtype: torch.dtype, device: torch.device) -> LLaDAModelLM:
    """Return a LLaDA whose random weights are made on `device` as `dtype`, without a copy anywhere else."""
    with torch.device("meta"):
        model = LLaDAModelLM(config)
    model.to(dtype)
    model.to_empty(device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model.apply(lambda module: initialise(module, config.initializer_range))
    model.eval()
    return model


def random_prompts(
    vocabulary: int, lengths: list[int], seed: int = 0
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Return prompts of the given lengths, padded on the left with token 0, and which tokens are not padding."""
    width = max(lengths)
    ids = torch.randint(vocabulary - 1, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    visible = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    return ids.masked_fill(~visible, 0), visible


def body_flops(config: LLaDAConfig, rows: int, length: int) -> float:
    """Return the FLOP of one call with `rows` canvases of `length` visible tokens, without the output head.

    They are those of projections, MLP and attention of every block. All blocks count fully, so that code which computes
    the last one only where its output is needed can get below.
    """
    d, kv = config.d_model, config.d_model * config.n_kv_heads // config.n_heads
    per_token = 2 * (2 * d * d + 2 * d * kv + 3 * d * config.mlp_hidden_size)
    return float(config.n_layers * rows * length * (per_token + 4 * length * d))


def head_flops(config: LLaDAConfig, rows: int) -> float:
    """Return the FLOP of the output head for `rows` hidden states."""
    return 2.0 * config.d_model * config.embedding_size * rows
