"""Dry runs: the published sizes, and counts against those of a real step."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from tests.helpers.families import tiny_folder
from torch import Tensor

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.models.adapters import add_adapter
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.model_paths import METRICS
from diffpo.models.quantised import BLOCK
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import RlRecipe, SftRecipe, base_bits
from diffpo.runs.device import configure_model_, resolve_device
from diffpo.runs.dry_run.memory import activations, adapter_inputs, resident_bytes
from diffpo.runs.dry_run.size import Size, size_of
from diffpo.runs.dry_run.summary import dry_run_report
from diffpo.runs.dry_run.work import has_reference, rl_work
from diffpo.sampling.policy import load_base
from diffpo.training.rl import run_rl
from diffpo.training.rl_setup import make_optimizers, make_reference
from diffpo.training.sft import run_sft

LLADA = "base=GSAI-ML/LLaDA-8B-Instruct"


@pytest.mark.parametrize(
    ("base", "rank", "parameters", "trained"),
    [
        ("GSAI-ML/LLaDA-8B-Instruct", None, 8_015_581_184, 8_015_581_184),
        ("GSAI-ML/LLaDA-8B-Instruct", 128, 8_015_581_184, 335_544_320),
        ("Dream-org/Dream-v0-Instruct-7B", None, 7_615_616_512, 7_615_616_512),
    ],
)
def test_published_sizes(base: str, rank: int | None, parameters: int, trained: int) -> None:
    size = size_of(base, rank, is_trained=True)
    assert (size.parameters, size.trained) == (parameters, trained)
    ends = 2 * size.vocabulary * size.width
    assert size.block_weights < size.parameters - ends < 1.001 * size.block_weights


def test_a_dry_run_needs_nothing_and_says_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["rl", "d1", LLADA, "lora.rank=128", "dtype=bfloat16", "objective.micro_batch_size=6", "--dry-run"])
    said = capsys.readouterr().out
    assert caught.value.code == 0 and list(tmp_path.iterdir()) == []
    for text in ("8,015,581,184", "335,544,320", 'base = "GSAI-ML/LLaDA-8B-Instruct"', "16.0 GB"):
        assert text in said
    amounts = memory_of(said)
    assert amounts["weights"] == pytest.approx(2 * 8_015_581_184 / 2**30, abs=0.01)
    assert amounts["optimiser"] == pytest.approx(8 * 335_544_320 / 2**30, abs=0.01)
    assert "reference" not in amounts, "the adapter is switched off instead"
    stays = sum(amounts[name] for name in ("weights", "adapter", "gradients", "optimiser"))
    update, rollout = (
        sum(amount for name, amount in amounts.items() if name.startswith(kind)) for kind in ("update", "rollout")
    )
    assert amounts["at most at a time"] == pytest.approx(stays + max(update, rollout), abs=0.05)


def memory_of(said: str) -> dict[str, float]:
    lines = said.split("GiB\n")[1].split("\n#")[0].strip().splitlines()
    return {name: float(amount) for name, amount in (line.rsplit(maxsplit=1) for line in lines)}


def test_a_full_model_needs_its_reference_and_more_of_everything() -> None:
    light = dry_run_report(load_recipe(RlRecipe, "d1", [LLADA, "lora.rank=128", "dtype=bfloat16"]), 200)
    full = dry_run_report(load_recipe(RlRecipe, "d1", [LLADA, "dtype=bfloat16"]), 200)

    more = memory_of(full)["at most at a time"] - memory_of(light)["at most at a time"]
    # A reference; masters, gradients and two moments in float32; less the adapter's of these, and its inputs.
    assert memory_of(full)["master weights"] == pytest.approx(4 * 8.016e9 / 2**30, abs=0.01)
    inputs = memory_of(light)["update: activations"] - memory_of(full)["update: activations"]
    assert more == pytest.approx((2 * 8.016e9 + 4 * 4 * (8.016e9 - 0.3355e9)) / 2**30 - inputs, abs=0.1)


def test_a_base_of_4_bits_takes_them_for_its_blocks() -> None:
    small = memory_of(dry_run_report(load_recipe(RlRecipe, "d1+llada-8b+gsm8k+1gpu-4bit"), 200))["weights"]
    ends, blocks = 2 * 126464 * 4096, 32 * (4 * 4096**2 + 3 * 4096 * 12288)
    assert small == pytest.approx((2 * ends + 0.516 * blocks) / 2**30, abs=0.01)


@pytest.mark.parametrize(("model", "kept"), [("llada-8b", 32 * 2 * 4096), ("dream-7b", 28 * 2 * 512)])
def test_a_cache_keeps_keys_and_values_of_what_is_in_flight(model: str, kept: int) -> None:
    recipe = f"diffpo+{model}+gsm8k+1gpu"
    options = ["rollout.prompts_per_step=4", "rollout.group_size=8"]
    plain = memory_of(dry_run_report(load_recipe(RlRecipe, recipe, options), 200))
    assert "rollout: keys and values" not in plain
    cached = memory_of(dry_run_report(load_recipe(RlRecipe, recipe, [*options, "rollout.cache=dual"]), 200))
    assert cached["rollout: keys and values"] == pytest.approx(2 * 32 * (200 + 256) * kept / 2**30, abs=0.01)
    few = memory_of(
        dry_run_report(load_recipe(RlRecipe, recipe, [*options, "rollout.cache=dual", "rollout.max_in_flight=8"]), 200)
    )
    for name in ("rollout: keys and values", "rollout: activations"):
        assert few[name] == pytest.approx(cached[name] / 4, abs=0.01)


def test_the_inputs_of_a_planner_are_kept_for_all_completions_of_a_step() -> None:
    options = ["rollout.prompts_per_step=4", "rollout.group_size=8", "rollout.max_in_flight=8"]
    for controller, numbers in (('{kind="planner"}', 4096), ('{kind="confidence-policy"}', 1)):
        recipe = load_recipe(RlRecipe, "diffpo+llada-8b+gsm8k+1gpu", [*options, f"controller={controller}"])
        said = memory_of(dry_run_report(recipe, 200))
        assert said["rollout: inputs of sets"] == pytest.approx(32 * 256 * 256 * numbers * 4 / 2**30, abs=0.01)


def test_devices_share_the_step_and_not_the_model() -> None:
    recipe = load_recipe(RlRecipe, "diffpo+llada-8b+gsm8k+8gpu", ["objective.micro_batch_size=100"])
    one, eight = (memory_of(dry_run_report(recipe, 200, devices)) for devices in (1, 8))
    assert one["weights"] == eight["weights"] and one["optimiser"] == eight["optimiser"]
    for name in ("update: activations", "rollout: activations", "rollout: logits"):
        assert one[name] == pytest.approx(8 * eight[name], rel=0.01)
    chunk = 4 * 2**26 / 2**30  # the logits that the head makes at a time, however many rows there are
    assert one["update: output head"] - chunk == pytest.approx(8 * (eight["update: output head"] - chunk), abs=0.05)
    with pytest.raises(UserError, match="16 prompts of a step cannot be divided among 5 devices"):
        dry_run_report(recipe, 200, devices=5)


def test_a_supervised_run_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sft", "d1-sft", "--dry-run"])
    said = capsys.readouterr().out
    assert caught.value.code == 0 and "data set simplescaling/s1K" in said and "rollout" not in said
    assert "denoiser tokens of the update           65,536" in said, "16 rows of 4096 tokens, shown once"
    assert memory_of(said)["adapter"] == pytest.approx(4 * 335_544_320 / 2**30, abs=0.01)
    with pytest.raises(UserError, match="this recipe has no base; set it"):
        dry_run_report(load_recipe(SftRecipe, "sudoku4-base"), 200)


LORA = ["lora.rank=8", "lora.alpha=8"]


@pytest.mark.parametrize(
    ("family", "pieces", "more"),
    [
        ("llada", "diffpo+gsm8k+1gpu", LORA),
        ("dream", "diffpo+gsm8k+1gpu", [*LORA, "optimizer.kind=muon"]),
        ("llada", "diffpo+gsm8k+1gpu-4bit", LORA),
        ("llada", "diffpo+gsm8k", ["dtype=bfloat16", "objective.kl_coef=0.1"]),
        ("dream", "diffpo+gsm8k", ["dtype=bfloat16", "optimizer.kind=muon"]),
        ("dream", "diffpo+gsm8k", ["optimizer.kind=muon"]),
    ],
)
def test_resident_bytes_are_those_of_what_a_run_makes(
    family: str, pieces: str, more: list[str], tmp_path: Path
) -> None:
    base = tiny_folder(tmp_path / "base", family, width=256, hidden=1024, layers=2)
    recipe = load_recipe(RlRecipe, pieces, [f"base={json.dumps(str(base))}", "device=cpu", *more])
    rank, bits = recipe.lora.rank if recipe.lora is not None else None, base_bits(recipe)
    is_compared = has_reference(recipe.objective)
    told = resident_bytes(recipe, size_of(str(base), rank, is_trained=True), is_compared)

    start = load_base(str(base), *resolve_device(recipe), bits).denoiser
    if recipe.lora is not None:
        add_adapter(start, recipe.lora.rank, recipe.lora.alpha, seed=0)
    reference = make_reference(recipe, start, start) if is_compared and recipe.lora is None else None
    (optimizer,) = make_optimizers(recipe, start, None).values()
    everywhere = torch.ones(1, 12, dtype=torch.bool)
    start.predict(torch.zeros(1, 12, dtype=torch.long), everywhere, everywhere).logits.sum().backward()
    optimizer.step()
    parameters = dict(start.model.named_parameters())
    adapter = {name: p for name, p in parameters.items() if "lora_" in name}
    state = optimizer.state_dict()
    made = {
        "weights": stored_bytes(p for name, p in parameters.items() if name not in adapter),
        "adapter": stored_bytes(adapter.values()),
        "reference": stored_bytes(reference.model.parameters()) if reference is not None else 0,
        "master weights": stored_bytes(state.get("masters", [])),
        "gradients": stored_bytes(p.grad for p in parameters.values() if p.grad is not None),
        "optimiser": stored_bytes(tensors_in(state.get("optimizer", state))),
    }
    assert told.keys() == made.keys()
    for part, found in made.items():
        assert told[part] == pytest.approx(found, rel=0.01), part
    assert made["weights"] and made["gradients"] and made["optimiser"]


def stored_bytes(values: Iterable[Tensor]) -> int:
    """Return the bytes of these tensors, a quantised one's scales and code books included."""
    total = 0
    for value in values:
        total += value.untyped_storage().nbytes()
        if (scales := getattr(value, "quant_state", None)) is not None:
            assert value.numel() * 2 % BLOCK == 0
            kept = (scales.absmax, scales.code, scales.offset, scales.state2.absmax)  # one code book for all scales
            total += sum(tensor.nbytes for tensor in kept)
    return total


def tensors_in(state: object) -> Iterator[Tensor]:
    if isinstance(state, dict | list):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors_in(part)
    elif isinstance(state, Tensor):
        yield state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_the_estimate_of_activations_is_near_what_torch_keeps(
    rank: int | None, is_checkpointed: bool, dtype: torch.dtype
) -> None:
    config = LLaDAConfig(d_model=96, n_layers=6, n_heads=4, mlp_hidden_size=288, vocab_size=64)
    denoiser = ModelDenoiser(LLaDAModelLM(config).to(dtype), 5, ())
    if rank is not None:
        add_adapter(denoiser, rank, rank, seed=0)
    configure_model_(denoiser, load_recipe(RlRecipe, "d1", [f"gradient_checkpointing={str(is_checkpointed).lower()}"]))
    canvas = torch.zeros(4, 64, dtype=torch.long)
    is_visible = at = torch.ones(4, 64, dtype=torch.bool)
    held = {p.untyped_storage().data_ptr() for p in denoiser.model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in held:
            kept[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        denoiser.predict(canvas, is_visible, at).logits.sum()
    counted: float = sum(value.untyped_storage().nbytes() for value in kept.values())
    size = Size(0, 1, 0, layers=6, width=96, hidden=288, vocabulary=64)

    def told(is_checkpointed: bool) -> int:
        inputs = 4 * adapter_inputs(size, canvas.numel(), is_checkpointed)
        has_inputs = rank is not None and dtype == torch.bfloat16
        return activations(size, canvas.numel(), is_checkpointed) * dtype.itemsize + has_inputs * inputs

    if is_checkpointed:  # one block's insides come with the backward pass
        counted += told(is_checkpointed=False) / 6
    assert told(is_checkpointed) == pytest.approx(counted, rel=0.25)


@pytest.mark.parametrize(
    "settings",
    [
        ['estimator={kind="mean-field", prompt_mask_rate=0.5}', "objective.kl_coef=0.1"],
        ['estimator={kind="elbo", draws=4, antithetic=false}'],
        ['estimator={kind="coupled"}', "objective.num_iterations=3"],
        ['estimator={kind="coupled"}', "objective.num_iterations=3", "objective.redraw=true", "objective.kl_coef=0.1"],
        ['estimator={kind="elbo", antithetic=false}', 'objective={kind="reinforce", num_iterations=3, redraw=true}'],
        ['estimator={kind="sampled-exact", draws=2, first_call="drawn"}', "objective.scored_tokens=drawn"],
        ["train=controller", "rollout.rule={kind='entropy-bound', bound=0.0}"],
    ],
)
def test_counted_tokens_are_those_of_a_step(settings: list[str], tmp_path: Path) -> None:
    """With estimators that share nothing but by chance: the count bounds it closely."""
    task = 'task={kind="sudoku", min_clues=4, max_clues=5}'
    sizes = ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.mlp_hidden_size=16"]
    run_sft(load_recipe(SftRecipe, None, [task, *sizes, "batch=4", "steps=1", "threads=1"]), tmp_path / "base")
    fixed = [
        "threads=1",
        "rollout.prompts_per_step=3",
        "rollout.group_size=4",
        "rollout.rule={kind='top-k', k=3}",
        "objective.kl_coef=0.0",
    ]
    overrides = [task, *fixed, *settings, f"base={json.dumps(str(tmp_path / 'base'))}", "budget.steps=1"]
    recipe = load_recipe(RlRecipe, None, overrides)
    run_rl(recipe, tmp_path / "run")
    line = json.loads((tmp_path / "run" / METRICS).read_text())
    (problem,) = build_task(recipe.task).problems("train", 1, 0)
    work = rl_work(recipe, len(problem.prompt))
    update = work.pass_tokens * work.passes
    assert 0.9 * update <= line["update_tokens"] <= update
    rollout = work.rollout_tokens
    calibration = 256 * work.tokens if recipe.train == "controller" else 0
    assert 0.6 * rollout <= line["rollout_tokens"] <= rollout + calibration


def test_expert_iteration_updates_a_batch_of_its_own(base: Path, tmp_path: Path) -> None:
    task = 'task={kind="sudoku", min_clues=13, max_clues=15}'
    objective = 'objective={kind="expert-iteration", num_iterations=3, batch=7}'
    small = ["rollout.prompts_per_step=4", "rollout.group_size=1", "rollout.rule={kind='top-k', k=3}"]
    overrides = [task, objective, *small, f"base={json.dumps(str(base))}", "threads=1", "budget.steps=1"]
    recipe = load_recipe(RlRecipe, None, overrides)
    run_rl(recipe, tmp_path / "run")
    line = json.loads((tmp_path / "run" / METRICS).read_text())
    (problem,) = build_task(recipe.task).problems("train", 1, 0)
    work = rl_work(recipe, len(problem.prompt))
    assert line["right_answers"] > 0 and work.tokens == len(problem.prompt) + 16
    assert work.pass_tokens * work.passes == line["update_tokens"] == 3 * 7 * work.tokens
    assert (work.completions, work.backward, work.rollout_tokens) == (4, 3, 4 * 6 * work.tokens)


def test_memory_of_expert_iteration_is_that_of_its_micro_batches() -> None:
    def amounts(*more: str, devices: int = 1) -> dict[str, float]:
        objective = 'objective={kind="expert-iteration", batch=32}'
        recipe = load_recipe(RlRecipe, "d1", [LLADA, "dtype=bfloat16", objective, *more])
        return memory_of(dry_run_report(recipe, 200, devices))

    whole, parts = amounts(), amounts("objective.micro_batch_size=4")
    assert "reference" not in whole and whole["gradients"] > 0
    assert whole["update: activations"] == pytest.approx(8 * parts["update: activations"], rel=0.01)
    assert amounts(devices=2)["update: activations"] == pytest.approx(whole["update: activations"] / 2, rel=0.01)
    more_prompts = amounts("rollout.prompts_per_step=64")
    assert more_prompts["update: activations"] == whole["update: activations"]
    assert more_prompts["rollout: activations"] > whole["rollout: activations"]


def test_a_size_that_is_not_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="the size of some/model is not known here; known are GSAI-ML"):
        size_of("some/model", None, is_trained=True)
    with pytest.raises(SystemExit) as caught:
        main(["rl", "d1", LLADA])
    assert caught.value.code == 2 and "Give --out, or --dry-run" in capsys.readouterr().err
