"""One completion, shown as it is drawn."""

from pathlib import Path

import torch

from diffpo.canvas import canvas_at
from diffpo.checkpoint import load
from diffpo.errors import UserError
from diffpo.evaluate import stored_task
from diffpo.recipes.parts import task_of
from diffpo.rollout import encode
from diffpo.sampler import sample
from diffpo.unmasking import EntropyBound

HIDDEN, ENDED = "_", "·"


def run_sample(model_dir: Path, prompt: str, entropy_bound: float | None, temperature: float, seed: int) -> None:
    """Print the canvas after every denoiser call. Without a bound the learned sampler chooses it, if there is one."""
    if not prompt:
        raise UserError("the prompt is empty; give at least one character")
    denoiser, tokenizer, controller = load(model_dir)
    length = task_of(stored_task(model_dir)).completion_length
    prompt_ids, prompt_mask = encode(tokenizer, [prompt])
    rollout = sample(
        denoiser,
        prompt_ids,
        prompt_mask,
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
