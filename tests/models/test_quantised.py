"""Adapters on a model of 4 bits: its numbers, which parameters train, resuming, and the errors."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from tests.helpers import published
from torch import Tensor, nn

from diffpo.core.errors import UserError
from diffpo.models.adapters import AdapterOffDenoiser, adapter_layers, add_adapter
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.models.quantised import BYTES_PER_WEIGHT
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe
from diffpo.runs.merge import run_merge
from diffpo.sampling.policy import load
from diffpo.training.rl import run_rl

POSITIVE = [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
NEGATIVE = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500]
NF4 = torch.tensor([*NEGATIVE, 0.0, *POSITIVE])
"""The 16 numbers of the published code book."""
WIDE = {16: 32, 32: 64, 48: 128}
"""Widths of the published folders, and those here: multiples of 64 for a CPU."""
DATA = [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(40)]


@pytest.fixture(params=published.PUBLISHED)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A published folder whose matrices are as wide as bitsandbytes needs them."""
    narrow = published.PUBLISHED[request.param]
    block = {name: tuple(WIDE[size] for size in shape) for name, shape in narrow.block.items()}
    ends = {name: tuple(WIDE.get(size, size) for size in shape) for name, shape in narrow.ends.items()}
    widths = ("d_model", "mlp_hidden_size", "hidden_size", "intermediate_size")
    config = {key: WIDE[value] if key in widths else value for key, value in narrow.config.items()}
    published.write_folder(tmp_path / "base", narrow)
    published.write_config(tmp_path / "base", config)
    weights = published.random_weights(replace(narrow, block=block, ends=ends))
    published.write_weights(tmp_path / "base", weights)
    return tmp_path / "base"


def logits(denoiser: ModelDenoiser) -> Tensor:
    canvas = torch.arange(40).view(2, 20)
    everywhere = torch.ones(canvas.shape, dtype=torch.bool)
    with torch.no_grad():
        return denoiser.predict(canvas, everywhere, everywhere).logits


def rounded(weight: Tensor) -> Tensor:
    """Return NF4 by its definition: in each block of 64 the nearest of the 16 numbers times the block's greatest."""
    blocks = weight.detach().reshape(-1, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    nearest = (blocks[..., None] / scale[..., None] - NF4).abs().argmin(dim=-1)
    return (NF4[nearest] * scale).view_as(weight)


def test_only_the_blocks_matrices_are_rounded_to_the_published_numbers(folder: Path) -> None:
    whole, small = load(folder).denoiser, load(folder, bits=4).denoiser
    matrices = {
        name
        for name, p in whole.model.named_parameters()
        if p.dim() == 2 and (".blocks." in name or ".layers." in name)
    }
    by_hand = load(folder).denoiser
    with torch.no_grad():
        for name, parameter in by_hand.model.named_parameters():
            if name in matrices:
                parameter.copy_(rounded(parameter))
    for name in matrices:
        stored: Any = small.model.get_parameter(name)
        unpacked = dequantize_4bit(stored.data, stored.quant_state)
        # Scales are rounded to a byte, too, which the rounding by hand leaves out.
        assert (unpacked - by_hand.model.get_parameter(name)).abs().mean() < 0.01 * unpacked.abs().mean()
    assert (logits(small) - logits(by_hand)).abs().mean() < 0.3 * (logits(small) - logits(whole)).abs().mean()
    for name, parameter in small.model.named_parameters():
        assert (parameter.dtype == torch.uint8) == (name in matrices)
        assert name in matrices or parameter.equal(whole.model.get_parameter(name))
    assert 0.5 < BYTES_PER_WEIGHT < 0.52


def test_the_adapter_alone_is_trained_and_off_it_is_the_model_of_4_bits(folder: Path) -> None:
    denoiser = load(folder, bits=4).denoiser
    before = logits(denoiser)
    add_adapter(denoiser, rank=2, alpha=4, seed=0)
    assert logits(denoiser).equal(before)
    trained = [p for p in denoiser.model.parameters() if p.requires_grad]
    assert len(trained) == 2 * len(adapter_layers(denoiser.model)) == 2 * 7 * 2
    assert {type(layer).__name__ for layer in adapter_layers(denoiser.model).values()} == {"Linear4bit"}, "PEFT's own"
    with torch.no_grad():
        for p in trained:
            p.add_(0.1)
    assert not torch.allclose(logits(denoiser), before, atol=1e-2) and logits(AdapterOffDenoiser.of(denoiser)).equal(
        before
    )


def recipe(folder: Path, data: Path, *more: str) -> RlRecipe:
    task = f"task={{kind='gsm8k', source={json.dumps(str(data))}, completion_length=8}}"
    settings = [
        task,
        "threads=1",
        "rollout.prompts_per_step=2",
        "rollout.group_size=2",
        "objective.kl_coef=0.1",
        "objective.num_iterations=1",
    ]
    lora = ["lora.rank=2", "lora.alpha=4", "lora.base_bits=4", "checkpoint.every=2"]
    return load_recipe(RlRecipe, None, [*settings, *lora, f"base={json.dumps(str(folder))}", *more])


def test_a_run_goes_on_bit_for_bit_and_merges_into_the_whole_model(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in DATA))
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    run_rl(recipe(folder, data, "budget.steps=3"), straight)
    run_rl(recipe(folder, data, "budget.steps=2"), halted)
    stored = halted / "recipe.toml"
    stored.write_text(stored.read_text().replace("\nsteps = 2", "\nsteps = 3"))
    run_rl(recipe(folder, data, "budget.steps=3"), halted, resume=True)
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if not k.endswith("seconds")}
            for line in (run / METRICS).read_text().splitlines()
        ]
        for run in (straight, halted)
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 3
    run_merge(straight, tmp_path / "merged")
    merged = load(tmp_path / "merged").denoiser.model
    whole = load(folder).denoiser.model
    for name, layer in adapter_layers(load(straight).denoiser.model).items():
        change = cast(Any, layer).get_delta_weight("default")
        found = merged.get_submodule(name)
        assert isinstance(found, nn.Linear) and found.weight.equal(whole.get_parameter(f"{name}.weight") + change)
    assert checkpoints(straight)


def test_evaluation_mode_computes_as_training_mode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a CPU with AVX512-BF16, which this one may lack, the library computes in another way in evaluation mode.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    denoiser = load(folder, bits=4).denoiser
    before = logits(denoiser)
    denoiser.model.eval()
    assert logits(denoiser).equal(before)


def test_a_matrix_that_a_cpu_would_dequantise_wrongly_is_refused_by_name(tmp_path: Path) -> None:
    published.write_folder(tmp_path, published.LLADA)
    with pytest.raises(UserError, match=r"multiple of 64, and model\.transformer\.blocks\.0\.q_proj takes 32; leave"):
        load(tmp_path, bits=4)


def test_without_the_library_the_error_tells_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(UserError, match=r"base_bits = 4 needs bitsandbytes, .*pip install 'diffpo\[quantised\]'"):
        load(folder, bits=4)
