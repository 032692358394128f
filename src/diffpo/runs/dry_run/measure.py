"""Measure this machine in about a second: products, memory, and the start of an operator."""

import os
import statistics
import time
from collections.abc import Callable

import torch

from diffpo.runs.dry_run.accelerators import CPU, GIGA, Accelerator, Number
from diffpo.runs.dry_run.size import Size

GIB = 2**30
MOST_ROWS = 2048
HEAD = 64
CACHE_BYTES, COPIED = 2**26, 2**24
ROUNDS = 5


@torch.no_grad()
def measured_cpu(size: Size, canvases: Number, tokens: int, dtype: torch.dtype = torch.float32) -> Accelerator:
    """Return this CPU: its rates on canvases of this model's shapes, and the start of an operator.

    Rates are per second of this process's CPU time, with the threads that torch has, since other programs may take the
    cores meanwhile. Links are not measured: within a node they are taken for the memory's, between nodes for 1 Gb/s.
    """
    count = min(max(1, round(canvases)), max(1, MOST_ROWS // tokens))
    rate, bandwidth = {}, _copy_rate()
    for kind in {torch.float32, dtype}:
        rate[kind] = _product_rate(count * tokens, size.width, size.hidden, kind)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return Accelerator(
        name=CPU,
        bfloat16=rate.get(torch.bfloat16, rate[torch.float32]),
        float32=rate[torch.float32],
        attention=_attention_rate(count, tokens, size.width, dtype),
        memory_bandwidth=bandwidth,
        memory=memory,
        link=bandwidth,
        network=GIGA / 8,
        source="measured here",
        is_measured=True,
        operator_seconds=_seconds(_small_sum),
    )


def _product_rate(rows: int, width: int, hidden: int, dtype: torch.dtype) -> Number:
    """Return the FLOP/s of the seven products of a block, each with weights and inputs that no cache holds yet."""
    shapes = [(width, width)] * 4 + [(hidden, width)] * 2 + [(width, hidden)]
    held = sum(out * inner + rows * inner for out, inner in shapes) * dtype.itemsize
    copies = min(32, 1 + CACHE_BYTES // held)
    sets = [
        [(torch.ones(rows, inner, dtype=dtype), torch.ones(out, inner, dtype=dtype)) for out, inner in shapes]
        for _ in range(copies)
    ]

    def products() -> None:
        for pairs in sets:
            for left, right in pairs:
                torch.nn.functional.linear(left, right)

    return copies * 2 * rows * width * (4 * width + 3 * hidden) / _seconds(products)


def _attention_rate(canvases: int, tokens: int, width: int, dtype: torch.dtype) -> Number:
    """Return the FLOP/s of attention's two products on whole canvases, with heads of 64 numbers."""
    heads = max(1, width // HEAD)
    q, k, v = (torch.ones(canvases, heads, tokens, width // heads, dtype=dtype) for _ in range(3))
    seconds = _seconds(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    return 4 * canvases * tokens * tokens * width / seconds


def _copy_rate() -> Number:
    """Return the bytes/s that a copy too large for the caches reads and writes."""
    left, right = torch.ones(COPIED), torch.ones(COPIED)
    return 2 * left.nbytes / _seconds(lambda: right.copy_(left))


def _small_sum() -> None:
    _SMALL.add(1.0)


_SMALL = torch.ones(8)


def _seconds(run: Callable[[], object], at_least: Number = 0.05) -> Number:
    """Return the median time of a call over some rounds, each of as many calls as take `at_least` seconds."""
    run()
    start = time.process_time()
    run()
    calls = max(1, round(at_least / max(1e-7, time.process_time() - start)))
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(calls):
            run()
        found.append((time.process_time() - start) / calls)
    return statistics.median(found)
