"""FLOP are counted as torch's own counter counts what the code computes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffpo.bench.flops import Canvases, forward_flops, masked_at_calls, rollout_flops
from diffpo.bench.full_size import AdapterUpdate, FullSize, on_cpu
from diffpo.bench.shapes import BLOCK
from diffpo.models.llada import LLaDAConfig
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.rules import TopK


@pytest.fixture
def size() -> FullSize:
    return on_cpu(layers=4)


def test_a_forward_pass_by_hand() -> None:
    config = LLaDAConfig(d_model=4, n_layers=2, n_heads=2, n_kv_heads=1, mlp_hidden_size=3, vocab_size=10)
    flops = forward_flops(config, Canvases(rows=1, length=5, outputs=2, scored=2), rank=1)
    keys, queries = 2 * 5, 5 + 2
    assert flops.weights == 2 * (keys * 2 * 4 * 2 + queries * (2 * 4 * 4 + 3 * 4 * 3))
    assert flops.adapter == 2 * (keys * 2 * (4 + 2) + queries * (2 * (4 + 4) + 3 * (4 + 3)))
    assert flops.attention == 2 * 2 * 4 * 5 * queries
    assert flops.head == 2 * 4 * 10 * 2
    assert flops.total == flops.weights + flops.adapter + flops.attention + flops.head


def test_masked_positions_of_each_call() -> None:
    assert masked_at_calls(torch.tensor([0, 1, 1, 0, 2, 3, 3, 3]), 4) == [4, 2, 4, 3]


def test_a_rollout_needs_what_torch_counts(size: FullSize) -> None:
    denoiser = size.denoiser()
    decoding = Decoding(TopK(8), size.length, BLOCK)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        rollout = sample(denoiser, *size.prompts(2, size.prompt), decoding)
    assert rollout_flops(size.config, rollout, BLOCK) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_an_update_of_an_adapter_needs_what_torch_counts(size: FullSize) -> None:
    update = AdapterUpdate.prepare(size, size.recipe(), size.denoiser())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        update()
    assert update.flops(size.rank) == pytest.approx(counter.get_total_flops(), rel=0.02)
