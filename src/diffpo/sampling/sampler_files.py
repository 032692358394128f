"""Learned samplers to and from folders: a small safetensors file and its config beside the model."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from diffpo.core.errors import UserError
from diffpo.sampling.damaged_files import explain_damaged_sampler
from diffpo.sampling.prices import PricedSampler, candidates_of
from diffpo.sampling.risk import RiskModel

SAMPLER_WEIGHTS = "sampler.safetensors"
SAMPLER_CONFIG = "sampler_config.json"
KIND = "commit-risk"


def save_sampler(sampler: PricedSampler, folder: Path) -> None:
    """Write the risk model's weights, and what they were measured at, beside the model that they belong to."""
    save_file(sampler.model.state_dict(), folder / SAMPLER_WEIGHTS)
    config = {
        "kind": KIND,
        "hidden_size": sampler.model.hidden_size,
        "width": sampler.model.width,
        "completion_length": sampler.length,
        "block_length": sampler.block_length,
        "candidates": [vars(candidate) for candidate in sampler.candidates],
    }
    (folder / SAMPLER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_sampler(folder: Path, hidden_size: int, device: torch.device) -> PricedSampler | None:
    """Return the learned sampler saved beside a model of that width; None where there is none.

    Raises UserError for files that cannot be read or belong to a model of another width, and for one without the other.
    """
    if not any((folder / name).is_file() for name in (SAMPLER_CONFIG, SAMPLER_WEIGHTS)):
        return None
    with explain_damaged_sampler(folder):
        sampler = _read(folder, device)
    if sampler.model.hidden_size != hidden_size:
        raise UserError(
            f"the learned sampler in {folder} was fitted to hidden states of width {sampler.model.hidden_size}, and "
            f"those of the model have {hidden_size}; use the model it was fitted to"
        )
    return sampler


def _read(folder: Path, device: torch.device) -> PricedSampler:
    """Return the sampler in a folder. Raises KeyError, ValueError and what a reader raises where it is damaged."""
    for name in (SAMPLER_CONFIG, SAMPLER_WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"it lacks {name}; both of its files are needed, or none")
    config = json.loads((folder / SAMPLER_CONFIG).read_text())
    if not isinstance(config, dict) or config["kind"] != KIND:
        raise ValueError(f"{SAMPLER_CONFIG} should describe a sampler of kind {KIND!r}")
    model = RiskModel(int(config["hidden_size"]), int(config["width"]))
    model.load_state_dict(load_file(folder / SAMPLER_WEIGHTS))
    length, block_length = int(config["completion_length"]), config["block_length"]
    if length < 1 or (block_length is not None and int(block_length) < 1):
        raise ValueError("completion_length and block_length should be at least 1")
    candidates = candidates_of(config["candidates"])
    return PricedSampler(
        model.to(device).eval(), candidates, length, None if block_length is None else int(block_length)
    )
