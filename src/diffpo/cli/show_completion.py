"""Print one completion as it is drawn, call by call."""

from pathlib import Path
from typing import Literal

from diffpo.core.canvas import canvas_at
from diffpo.core.output import show
from diffpo.evaluation.completing import chosen_decoding, draw_completions
from diffpo.recipes.stored import sampled_length
from diffpo.recipes.tables import DeviceSettings
from diffpo.runs.device import configure_torch_, resolve_device
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.policy import load

MASKED, ENDED = "_", "·"


def run_sample(
    model: str | Path,
    prompt: str,
    length: int | None = None,
    entropy_bound: float | None = None,
    price: float | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Print the canvas after every denoiser call. `model` is a folder, a run or a hub name.

    Without a `length` the completion is as long as those of the task that the model was trained on. Without a bound the
    controller chooses it, or the commit policy the tokens of each call, if there is one; with a price the model's
    sampler decodes. Raises UserError for a price where it has none, and for a prompt that is too long for the model.
    """
    length = sampled_length(model, length)
    settings = DeviceSettings(device=device, dtype=dtype)
    configure_torch_(settings)
    policy = load(model, *resolve_device(settings))
    decoding, chosen = chosen_decoding(policy, str(model), length, entropy_bound, price, temperature)
    rollout = draw_completions(policy, [prompt], decoding, seed)
    mask_id = policy.denoiser.mask_id
    signs = {mask_id: MASKED} | dict.fromkeys(policy.denoiser.stop_ids, ENDED)
    for call in range(1, int(rollout.nfe) + 1):
        ids = canvas_at(rollout, call, mask_id)[0, -length:].tolist()
        show(f"{call:4d}  {''.join(signs.get(i) or policy.tokenizer.decode([i]) for i in ids)}")
    how = f"entropy bound {float(rollout.entropy_bound):.3g}"
    if chosen is not None:
        how = f"{chosen.name}, chosen for price {price:g}"
    elif isinstance(decoding.controller, CommitPolicy):
        how = decoding.controller.kind
    show(f"{int(rollout.nfe)} denoiser calls, {how}")
