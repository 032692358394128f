"""Learned samplers to and from folders: a small safetensors file and its config beside the model."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from diffpo.core.errors import UserError
from diffpo.sampling.prices import PricedSampler, candidates_of
from diffpo.sampling.risk import RiskModel

SAMPLER_WEIGHTS = "sampler.safetensors"
SAMPLER_CONFIG = "sampler_config.json"


def save_sampler(sampler: PricedSampler, folder: Path) -> None:
    """Write the risk model's weights, and what they were measured at, beside the model that they belong to."""
    save_file(sampler.model.state_dict(), folder / SAMPLER_WEIGHTS)
    config = {
        "kind": "commit-risk",
        "hidden_size": sampler.model.hidden_size,
        "width": sampler.model.width,
        "completion_length": sampler.length,
        "block_length": sampler.block_length,
        "candidates": [vars(candidate) for candidate in sampler.candidates],
    }
    (folder / SAMPLER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_sampler(folder: Path, hidden_size: int, device: torch.device) -> PricedSampler | None:
    """Return the learned sampler saved beside a model of that width; None where there is none.

    Raises UserError for files that cannot be read or belong to a model of another width.
    """
    if not (folder / SAMPLER_CONFIG).is_file():
        return None
    try:
        config = json.loads((folder / SAMPLER_CONFIG).read_text())
        model = RiskModel(int(config["hidden_size"]), int(config["width"]))
        model.load_state_dict(load_file(folder / SAMPLER_WEIGHTS))
        length, block_length = int(config["completion_length"]), config["block_length"]
        candidates = candidates_of(config["candidates"])
        sampler = PricedSampler(
            model.to(device).eval(), candidates, length, None if block_length is None else int(block_length)
        )
    except KeyError as error:
        raise UserError(f"the learned sampler in {folder} cannot be loaded: its config lacks {error}") from error
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the learned sampler in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    if model.hidden_size != hidden_size:
        raise UserError(
            f"the learned sampler in {folder} was fitted to hidden states of width {model.hidden_size}, and those of "
            f"the model have {hidden_size}; use the model it was fitted to"
        )
    return sampler
