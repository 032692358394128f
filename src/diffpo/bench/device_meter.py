"""Seconds, peaks of memory and the rates of a device, on CUDA and on a CPU."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from diffpo.bench.meter import Meter
from diffpo.models.llada import LLaDAConfig


def seconds_of(run: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Return the wall time of one of `repeats` calls, in seconds, until the device has done all of it."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def peak_bytes_of(run: Callable[[], Any], model: PreTrainedModel) -> int:
    """Return the most bytes that a call held at a time beyond those that were held before it.

    On CUDA that is the allocator's count, which includes what operators need inside; on a CPU that of the tensors that
    were made meanwhile.
    """
    device: torch.device = model.device
    if device.type != "cuda":
        with (meter := Meter(model)):
            run()
        return meter.peak_bytes
    _wait(device)
    before: int = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    _wait(device)
    return torch.cuda.max_memory_allocated(device) - before


@torch.no_grad()
def matmul_rates(
    config: LLaDAConfig, tokens: int, dtype: torch.dtype, device: torch.device, repeats: int = 20
) -> dict[str, float]:
    """Measure the FLOP per second of the products of a model's block with `tokens` tokens.

    By `rows x inner x columns`, and as `block` that of all seven products of a block, each as often as it occurs.
    """
    d, m, kv = config.d_model, config.mlp_hidden_size, config.d_model * config.n_kv_heads // config.n_heads
    counts = Counter({(d, d): 2, (d, m): 2, (m, d): 1}) + Counter({(d, kv): 2})
    rates, work, seconds = {}, 0.0, 0.0
    for (inner, columns), count in counts.items():
        left = torch.randn(tokens, inner, dtype=dtype, device=device)
        right = torch.randn(columns, inner, dtype=dtype, device=device)
        product = partial(torch.nn.functional.linear, left, right)
        seconds_of(product, device, repeats)  # warms up
        flops, each = 2.0 * tokens * inner * columns, seconds_of(product, device, repeats)
        rates[f"{tokens} x {inner} x {columns}"] = flops / each
        work, seconds = work + count * flops, seconds + count * each
    return {"block": work / seconds, **rates}


def copy_rate(size: int, device: torch.device, repeats: int = 20) -> float:
    """Measure how many bytes per second are read and written when `size` bytes are copied on the device."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / seconds_of(lambda: target.copy_(source), device, repeats)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
