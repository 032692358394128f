"""A tiny model of each family, with the tokenizer of the tiny runs' task, and folders of them to train from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.dream import DreamConfig, DreamModel
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.loading import make_denoiser
from diffpo.models.tokenizer import char_tokenizer
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import SudokuTask
from diffpo.sampling.policy import Policy, save


def _llada(width: int, hidden: int, layers: int, **others: Any) -> PreTrainedModel:
    config = LLaDAConfig(d_model=width, mlp_hidden_size=hidden, n_layers=layers, n_heads=2, **others)
    return LLaDAModelLM(config)


def _dream(width: int, hidden: int, layers: int, **ids: int) -> PreTrainedModel:
    config = DreamConfig(
        hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=2, **ids
    )
    return DreamModel(config)


FAMILIES: dict[str, Callable[..., PreTrainedModel]] = {"llada": _llada, "dream": _dream}


def tiny_policy(family: str, width: int = 32, hidden: int = 48, layers: int = 2) -> Policy:
    """Return a random model of this family and shape; equal arguments give equal weights."""
    tokenizer = char_tokenizer(build_task(SudokuTask()).alphabet)
    ids = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = FAMILIES[family](width, hidden, layers, vocab_size=len(tokenizer), **ids)
    return Policy(make_denoiser(model, tokenizer), tokenizer)


def tiny_denoiser(family: str, dtype: torch.dtype, width: int = 32, hidden: int = 48, layers: int = 2) -> ModelDenoiser:
    """Return a random denoiser whose weights are bfloat16 numbers, kept as `dtype`."""
    denoiser = tiny_policy(family, width, hidden, layers).denoiser
    denoiser.model.to(torch.bfloat16).to(dtype)
    return denoiser


def tiny_folder(folder: Path, family: str, width: int = 32, hidden: int = 48, layers: int = 2) -> Path:
    """Write such a model, its weights bfloat16 numbers, and return the folder."""
    policy = tiny_policy(family, width, hidden, layers)
    policy.denoiser.model.to(torch.bfloat16)
    save(policy, folder)
    return folder
