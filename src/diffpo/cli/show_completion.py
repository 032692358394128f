"""One completion, shown as it is drawn."""

from pathlib import Path
from typing import Literal

import torch

from diffpo.core.canvas import canvas_at
from diffpo.core.errors import UserError
from diffpo.recipes.stored import sampled_length
from diffpo.recipes.tables import DeviceSettings
from diffpo.runs.checkpoint import load
from diffpo.runs.device import resolve_device
from diffpo.runs.prompt_filter import prompt_capacity
from diffpo.sampling.loop import sample
from diffpo.sampling.rules import EntropyBound
from diffpo.training.rollouts import encode

HIDDEN, ENDED = "_", "·"


def run_sample(
    model: str | Path,
    prompt: str,
    length: int | None = None,
    entropy_bound: float | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Print the canvas after every denoiser call. `model` is a folder, a run or a hub name.

    Without a `length` the completion is as long as those of the task that the model was trained on. Without a bound the
    learned sampler chooses it, if there is one. Raises UserError for a prompt that the model has no positions for.
    """
    if not prompt:
        raise UserError("the prompt is empty; give at least one character")
    length = sampled_length(model, length)
    denoiser, tokenizer, controller = load(model, *resolve_device(DeviceSettings(device=device, dtype=dtype)))
    prompt_ids, prompt_mask = encode(tokenizer, [prompt])
    room, num_tokens = prompt_capacity(denoiser.model.config, tokenizer, length), prompt_ids.shape[1]
    if room is not None and num_tokens > room:
        raise UserError(
            f"the prompt has {num_tokens} tokens, and beside a completion of {length} the model has positions for "
            f"{max(0, room)}; shorten it, or lower --length"
        )
    rollout = sample(
        denoiser,
        prompt_ids.to(denoiser.model.device),
        prompt_mask.to(denoiser.model.device),
        length=length,
        block_length=length,
        rule=EntropyBound(entropy_bound or 0.0),
        temperature=temperature,
        seeds=torch.tensor([seed]),
        controller=controller if entropy_bound is None else None,
        stop_ids=denoiser.stop_ids,
    )
    calls = int(rollout.nfe)
    signs = {denoiser.mask_id: HIDDEN} | dict.fromkeys(denoiser.stop_ids, ENDED)
    for call in range(1, calls + 1):
        ids = canvas_at(rollout, call, denoiser.mask_id)[0, -length:].tolist()
        print(f"{call:4d}  {''.join(signs.get(i) or tokenizer.decode([i]) for i in ids)}")
    print(f"{calls} denoiser calls, entropy bound {float(rollout.entropy_bound):.3g}")
