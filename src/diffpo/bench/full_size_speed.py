"""How quickly a model of full size draws completions and is updated, and how that compares with a device's rate."""

import statistics
from typing import Any

import torch
from torch import Tensor

from diffpo.bench import plain
from diffpo.bench.device_meter import copy_rate, matmul_rates, seconds_of
from diffpo.bench.flops import rollout_flops
from diffpo.bench.full_size import TEMPERATURE, AdapterUpdate, FullSize
from diffpo.bench.rollouts import rollout_case
from diffpo.bench.shapes import BLOCK
from diffpo.core.canvas import full_attention_mask
from diffpo.core.rollout import Rollout
from diffpo.models.denoiser import ModelDenoiser
from diffpo.runs.device import DTYPES
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.rules import LowConfidence, TopK

Found = dict[str, Any]
"""What a measurement gives, as JSON holds it: times in seconds, memory in bytes, rates per second."""


def measure_rates(size: FullSize) -> Found:
    """Measure the device's rate of matrix products in the shapes of the model's blocks, and of copies in its memory."""
    tokens = size.rows * (size.prompt + size.length)
    copied = copy_rate(2**30 if size.device.type == "cuda" else 2**24, size.device)
    matmul = matmul_rates(size.config, tokens, DTYPES[size.dtype], size.device)
    return {"dtype": size.dtype, "matmul_flops_per_second": matmul, "copy_bytes_per_second": copied}


def measure_rollouts(size: FullSize, rate: float | None, attention: str, is_compiled: bool) -> Found:
    """Time whole rollouts of random prompts at a fixed number of tokens a call.

    `rate` is the matmul rate (FLOP/s) that the share is one of, if it was measured.
    """
    denoiser = size.denoiser(attention=attention, compile=is_compiled)
    prompts = size.prompts(size.rows, size.prompt)
    decoding = Decoding(TopK(size.per_call), size.length, BLOCK, TEMPERATURE)
    drawn: list[Rollout] = []
    run = lambda: drawn.append(sample(denoiser, *prompts, decoding, torch.arange(size.rows)))  # noqa: E731
    first = seconds_of(run, size.device)
    before = denoiser.usage.tokens
    seconds = seconds_of(run, size.device)
    calls = int(drawn[-1].nfe.max())
    return {
        "rows": size.rows,
        "calls": calls,
        "first_seconds": first,
        "seconds": seconds,
        "tokens_per_second": size.rows * size.length / seconds,
        "calls_per_second": calls / seconds,
        "denoiser_tokens_per_second": (denoiser.usage.tokens - before) / seconds,
    } | _speed(rollout_flops(denoiser.model.config, drawn[-1], BLOCK), seconds, rate)


def compare_with_plain(size: FullSize) -> Found:
    """Time the sampler and the plain reference in turn, on the last two blocks, greedily and at a temperature.

    In bfloat16 the two round differently, so that greedy tokens of a random model may differ: the share of equal ones
    is given, and how far the logits of the first call differ.
    """
    denoiser = size.denoiser()
    rows, length = max(1, size.rows // 2), 2 * BLOCK
    prompts = size.prompts(rows, size.prompt + size.length - length)
    found: Found = {"rows": rows, "first_call_gap": _first_call_gap(denoiser, prompts)}
    for name, temperature in (("greedy", 0.0), (f"temperature {TEMPERATURE:g}", TEMPERATURE)):
        keep, rule = plain.top_k(size.per_call), LowConfidence(size.per_call)
        case = rollout_case(denoiser, prompts, length, keep, rule, temperature)
        expected, drawn = case.plain(), case.own()
        times = [(seconds_of(case.plain, size.device), seconds_of(case.own, size.device)) for _ in range(size.rounds)]
        found[name] = {
            "plain_seconds": [one for one, _ in times],
            "own_seconds": [other for _, other in times],
            "plain_over_own": statistics.median(one / other for one, other in times),
        }
        if temperature == 0:
            found[name]["equal_tokens"] = float((expected == drawn.completion_ids).float().mean())
    return found


@torch.no_grad()
def _first_call_gap(denoiser: ModelDenoiser, prompts: tuple[Tensor, Tensor]) -> float:
    """Return the largest difference of the two sides' logits at the first masked position, over their deviation."""
    ids, visible = (part[:1] for part in prompts)
    canvas = torch.nn.functional.pad(ids, (0, BLOCK), value=denoiser.mask_id)
    mask = full_attention_mask(visible, BLOCK)
    at = torch.zeros_like(mask)
    at[:, ids.shape[1]] = True
    own = denoiser.predict(canvas, mask, at).logits[:, : denoiser.mask_id]
    expected = plain.logits_of(denoiser.model, canvas, mask)[at][:, : denoiser.mask_id].float()
    return float((own - expected).abs().max() / expected.std())


def measure_updates(
    size: FullSize, rate: float | None, attention: str, is_compiled: bool, is_checkpointed: bool
) -> Found:
    """Time updates of an adapter: forward and backward passes, clipping, and AdamW's step."""
    denoiser = size.denoiser(attention=attention, compile=is_compiled, gradient_checkpointing=is_checkpointed)
    update = AdapterUpdate.prepare(size, size.recipe(), denoiser)
    first = seconds_of(update, size.device)
    before = denoiser.usage.tokens
    seconds = seconds_of(update, size.device, size.rounds)
    tokens = (denoiser.usage.tokens - before) / size.rounds
    return {
        "completions": len(update.batch.rollout),
        "first_seconds": first,
        "seconds": seconds,
        "denoiser_tokens": tokens,
        "denoiser_tokens_per_second": tokens / seconds,
    } | _speed(update.flops(size.rank), seconds, rate)


def _speed(flops: float, seconds: float, rate: float | None) -> Found:
    """Return the FLOP that were needed, a second's, and their share of the measured rate."""
    share = flops / seconds / rate if rate else None
    return {"flops": flops, "flops_per_second": flops / seconds, "share_of_matmul_rate": share}
