"""Runs whose model is bfloat16: they learn what float32 runs learn, go on bit for bit, and keep the recipe's dtype."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.families import tiny_folder
from tests.helpers.tiny_runs import TASK, make_old, rl_recipe, snapshot
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.core.randomness import derive_seed
from diffpo.models.adapters import add_adapter
from diffpo.models.model_paths import checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import SftRecipe
from diffpo.sampling.policy import load
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

LORA = ["lora.rank=4", "lora.alpha=8"]


def recipe(base: Path, dtype: str, *more: str) -> SftRecipe:
    fixed = ["batch=16", "weighting=uniform", "optimizer.warmup=0", "checkpoint.every=2"]
    return load_recipe(SftRecipe, None, [*TASK, *fixed, f"base={json.dumps(str(base))}", f"dtype={dtype}", *more])


def optimizer_state(run: Path) -> dict[str, Any]:
    stored: dict[str, Any] = torch.load(checkpoints(run)[-1] / "optimizer.pt", weights_only=True)
    return stored


def change_by_group(base: Path, run: Path, dtype: torch.dtype, is_adapter: bool) -> dict[str, Tensor]:
    """Return how the numbers that a run trains have changed, those of all blocks together."""
    start, end = load(base, dtype=dtype).denoiser, load(checkpoints(run)[-1], dtype=dtype).denoiser
    if is_adapter:
        add_adapter(start, 4, 8, derive_seed(0, "adapter"))
    names = [name for name, p in end.model.named_parameters() if not is_adapter or p.requires_grad]
    numbers = [end.model.get_parameter(name).detach() for name in names]
    if dtype == torch.bfloat16 and not is_adapter:
        masters = optimizer_state(run)["policy"]["masters"]
        assert all(p.equal(master.bfloat16()) for p, master in zip(numbers, masters, strict=True))
        numbers = masters
    groups: dict[str, list[Tensor]] = {}
    for name, number in zip(names, numbers, strict=True):
        before = start.model.get_parameter(name).detach().float()
        groups.setdefault(".".join(part for part in name.split(".") if not part.isdigit()), []).append(number - before)
    return {group: torch.cat([change.flatten() for change in changes]) for group, changes in groups.items()}


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("more", [[], LORA], ids=["full", "adapter"])
def test_a_short_run_in_bfloat16_learns_what_one_in_float32_does(family: str, more: list[str], tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base", family)
    exact, found = (
        learned(base, tmp_path / dtype, dtype, [*more, "steps=12", "optimizer.lr=3e-6"])
        for dtype in ("float32", "bfloat16")
    )
    assert exact.keys() == found.keys() and len(exact) == (14 if more else {"llada": 12, "dream": 15}[family])
    compare(found, exact)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        pytest.param("llada", LORA, id="llada-adapter"),
        pytest.param("dream", [], id="dream-full", marks=pytest.mark.slow),
    ],
)
def test_short_rl_in_bfloat16_learns_what_it_does_in_float32(family: str, more: list[str], tmp_path: Path) -> None:
    """Each draws its own completions. All are told apart by this reward: where few are, few decide what is learned."""
    base = tiny_folder(tmp_path / "base", family)
    (tmp_path / "own.py").write_text(DIGITS)
    given = ["train=policy", "optimizer.lr=3e-6", "optimizer.decay=none", "optimizer.warmup=0", "budget.steps=10"]
    given += [
        "rollout.prompts_per_step=16",
        "rollout.group_size=8",
        "objective.micro_batch_size=64",
        f'task.reward="{tmp_path}/own.py:digits"',
        *more,
    ]
    found: dict[str, dict[str, Tensor]] = {}
    for dtype in ("float32", "bfloat16"):
        run_rl(rl_recipe(base, *given, f"dtype={dtype}"), tmp_path / dtype)
        found[dtype] = change_by_group(base, tmp_path / dtype, getattr(torch, dtype), is_adapter=bool(more))
    compare(found["bfloat16"], found["float32"])


DIGITS = """
def digits(completions):
    return [sum(character in "1234" for character in text) / 16 for text in completions]
"""


def compare(found: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    for group, change in exact.items():
        assert change.norm() > 0 and 0.9 < found[group].norm() / change.norm() < 1.1, group
        assert torch.cosine_similarity(found[group], change, dim=0) > 0.9, group


def learned(base: Path, out: Path, dtype: str, settings: list[str]) -> dict[str, Tensor]:
    run_sft(recipe(base, dtype, *settings), out)
    return change_by_group(base, out, getattr(torch, dtype), is_adapter=any("lora" in option for option in settings))


@pytest.mark.parametrize("more", [[], ["optimizer.kind=muon"], LORA], ids=["full", "muon", "adapter"])
def test_a_bfloat16_run_goes_on_bit_for_bit_and_keeps_its_dtype(more: list[str], tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base", "dream")
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    run_sft(recipe(base, "bfloat16", "steps=3", "optimizer.lr=3e-6", *more), straight)
    run_sft(recipe(base, "bfloat16", "steps=2", "optimizer.lr=3e-6", *more), halted)
    last = checkpoints(halted)[-1]
    file = last / ("adapter_model.safetensors" if more == LORA else "model.safetensors")
    expected = torch.float32 if more == LORA else torch.bfloat16
    assert {tensor.dtype for tensor in load_file(file).values()} == {expected}
    run_sft(recipe(base, "bfloat16", "steps=3", "optimizer.lr=3e-6", *more), halted, resume=True, extend=True)
    assert snapshot(halted) == snapshot(straight)


def test_rl_of_a_whole_bfloat16_model_changes_every_weight_and_goes_on_bit_for_bit(base: Path, tmp_path: Path) -> None:
    settings = ["train=policy", "dtype=bfloat16", "optimizer.lr=3e-6", "checkpoint.every=2", "optimizer.decay=none"]
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    run_rl(rl_recipe(base, *settings, "budget.steps=3"), straight)
    run_rl(rl_recipe(base, *settings, "budget.steps=2"), halted)
    run_rl(rl_recipe(base, *settings, "budget.steps=3"), halted, resume=True, extend=True)
    assert snapshot(halted) == snapshot(straight)
    for group, change in change_by_group(base, straight, torch.bfloat16, is_adapter=False).items():
        assert (change != 0).float().mean() > 0.5, group


def test_a_checkpoint_without_masters_is_refused_in_a_sentence(tmp_path: Path) -> None:
    base, run = tiny_folder(tmp_path / "base", "llada"), tmp_path / "run"
    run_sft(recipe(base, "bfloat16", "steps=2"), run)
    forget(run, {"policy": optimizer_state(run)["policy"]["optimizer"]})
    with pytest.raises(UserError, match=r"kept other numbers, so the run cannot go on; start a new one.* base=.*-2$"):
        run_sft(recipe(base, "bfloat16", "steps=3"), run, resume=True, extend=True)


def test_a_checkpoint_whose_muon_had_no_matrix_is_refused_in_a_sentence(tmp_path: Path) -> None:
    base, run = tiny_folder(tmp_path / "base", "dream"), tmp_path / "run"
    run_sft(recipe(base, "float32", "steps=2", "optimizer.kind=muon"), run)
    state = optimizer_state(run)
    state["policy"]["muon"]["param_groups"][0]["params"] = []
    forget(run, state)
    with pytest.raises(UserError, match="kept other numbers, so the run cannot go on"):
        run_sft(recipe(base, "float32", "steps=3", "optimizer.kind=muon"), run, resume=True, extend=True)


def test_a_bfloat16_adapter_of_an_earlier_version_goes_on_in_float32(tmp_path: Path) -> None:
    base, run = tiny_folder(tmp_path / "base", "llada"), tmp_path / "run"
    run_sft(recipe(base, "bfloat16", "steps=2", *LORA), run)
    state = optimizer_state(run)
    for moments in state["policy"]["state"].values():
        moments.update({name: moments[name].bfloat16() for name in ("exp_avg", "exp_avg_sq")})
    forget(run, state)
    file = checkpoints(run)[-1] / "adapter_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file, {"format": "pt"})
    run_sft(recipe(base, "bfloat16", "steps=3", *LORA), run, resume=True, extend=True)
    found = optimizer_state(run)["policy"]["state"].values()
    assert {moments["exp_avg"].dtype for moments in found} == {torch.float32}
    assert {value.dtype for value in load_file(checkpoints(run)[-1] / "adapter_model.safetensors").values()} == {
        torch.float32
    }


def forget(run: Path, state: dict[str, Any]) -> None:
    """Store a state as an earlier version did."""
    last = checkpoints(run)[-1]
    make_old(last)
    torch.save(state, last / "optimizer.pt")
