"""LoRA adapters: which matrices have them, the reference without them, PEFT's files, refusals, merging."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.tiny_runs import TASK
from torch import Tensor
from transformers import PreTrainedModel

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.models import loading
from diffpo.models.adapters import AdapterOffDenoiser, adapter_layers, add_adapter, merge_adapter
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.manifest import MANIFEST
from diffpo.models.model_paths import METRICS, checkpoints, is_adapter
from diffpo.models.weights import read_weights
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.runs.merge import run_merge
from diffpo.sampling.policy import load, save
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

SFT = [*TASK, "batch=32", "weighting=uniform", "optimizer.lr=0.01", "checkpoint.every=1000"]
RL = [*TASK, "task.cell_credit=0.5", "rollout.prompts_per_step=3", "rollout.group_size=4", "optimizer.lr=0.01"]
LORA = ["lora.rank=4", "lora.alpha=8"]


@pytest.fixture(scope="module")
def adapted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has trained an adapter for three steps, with a KL term to the base."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    run_rl(rl_recipe(base, "budget.steps=3", "checkpoint.every=2", "objective.kl_coef=0.1"), folder)
    return folder


def rl_recipe(base: Path, *overrides: str) -> RlRecipe:
    return load_recipe(RlRecipe, None, [*RL, *LORA, f"base={json.dumps(str(base))}", *overrides])


def logits(denoiser: ModelDenoiser) -> Tensor:
    canvas = torch.arange(24).view(2, 12) % 8
    everywhere = torch.ones(canvas.shape, dtype=torch.bool)
    with torch.no_grad():
        return denoiser.predict(canvas, everywhere, everywhere).logits


def test_an_adapter_starts_as_its_model_and_is_on_every_matrix_of_the_blocks_alone(base: Path) -> None:
    denoiser = load(base).denoiser
    before = logits(denoiser)
    add_adapter(denoiser, rank=4, alpha=8, seed=0)
    assert logits(denoiser).equal(before)
    layers = adapter_layers(denoiser.model)
    matrices = {"q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"}
    assert set(layers) == {f"model.transformer.blocks.{i}.{name}" for i in range(2) for name in matrices}
    trained = [name for name, p in denoiser.model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(layers) and all("lora_" in name for name in trained)


def test_llada_8b_has_as_many_trained_parameters_as_published() -> None:
    """Shapes alone: no weight is made."""
    with torch.device("meta"):
        config = LLaDAConfig(d_model=4096, n_layers=32, n_heads=32, mlp_hidden_size=12288, vocab_size=126464)
        denoiser = ModelDenoiser(LLaDAModelLM(config), 126336, ())
        assert sum(p.numel() for p in denoiser.model.parameters()) == 8_015_581_184
        add_adapter(denoiser, rank=128, alpha=64, seed=0)
    assert sum(p.numel() for p in denoiser.model.parameters() if p.requires_grad) == 335_544_320


def test_equal_seeds_give_equal_adapters_whatever_the_global_generator_holds(base: Path) -> None:
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        denoiser = load(base).denoiser
        add_adapter(denoiser, 4, 8, seed)
        found.append(torch.cat([p.flatten() for p in denoiser.model.parameters() if p.requires_grad]))
    assert found[0].equal(found[1]) and not found[0].equal(found[2])


def test_an_adapter_on_a_bfloat16_model_is_float32_and_stays_so_on_the_disk(base: Path, tmp_path: Path) -> None:
    policy = load(base, dtype=torch.bfloat16)
    add_adapter(policy.denoiser, 4, 8, seed=0)

    def trained(denoiser: ModelDenoiser) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in denoiser.model.named_parameters() if p.requires_grad}

    numbers = trained(policy.denoiser)
    assert {p.dtype for p in numbers.values()} == {torch.float32}
    frozen = {p.dtype for name, p in policy.denoiser.model.named_parameters() if name not in numbers}
    assert frozen == {torch.bfloat16}
    with torch.no_grad():
        for number in numbers.values():
            number += 1e-4 * torch.randn(number.shape)
    save(policy, tmp_path / "adapter")
    for dtype in (torch.bfloat16, torch.float32):
        again = trained(load(tmp_path / "adapter", dtype=dtype).denoiser)
        assert again.keys() == numbers.keys() and all(again[name].equal(numbers[name]) for name in numbers)


def test_rl_trains_the_adapter_and_the_base_is_the_model_under_it(base: Path, adapted: Path) -> None:
    before, denoiser = load(base).denoiser, load(adapted).denoiser
    off = AdapterOffDenoiser.of(denoiser)
    assert not torch.allclose(logits(denoiser), logits(before), atol=1e-3)
    assert logits(off).equal(logits(before))
    assert not logits(denoiser).equal(logits(off)), "off is for one call"
    lines = [json.loads(line) for line in (adapted / METRICS).read_text().splitlines()]
    assert lines[-1]["kl"] > 0 and abs(lines[0]["policy_ratio"] - 1) < 0.2
    last = checkpoints(adapted)[-1]
    assert is_adapter(last) and not (last / "model.safetensors").exists()


def test_the_reference_is_off_where_the_model_fails_too(base: Path) -> None:
    denoiser = load(base).denoiser
    add_adapter(denoiser, 4, 8, 0)
    with torch.no_grad():
        for p in denoiser.model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    changed = logits(denoiser)
    off = AdapterOffDenoiser.of(denoiser)
    with pytest.raises(IndexError):
        off.predict(torch.tensor([[10**6]]), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool))
    assert logits(denoiser).equal(changed)


def test_peft_reads_what_is_stored(base: Path, adapted: Path) -> None:
    from peft import LoraConfig
    from peft.utils import load_peft_weights

    last = checkpoints(adapted)[-1]
    config = LoraConfig.from_pretrained(str(last))
    assert (config.r, config.lora_alpha) == (4, 8)
    assert config.base_model_name_or_path == str(checkpoints(base)[-1])
    assert all(name.startswith("base_model.model.model.transformer.blocks.") for name in load_peft_weights(str(last)))


def test_a_run_with_an_adapter_goes_on_bit_for_bit(base: Path, adapted: Path, tmp_path: Path) -> None:
    run_rl(rl_recipe(base, "budget.steps=2", "checkpoint.every=2", "objective.kl_coef=0.1"), tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("\nsteps = 2", "\nsteps = 3"))
    run_rl(
        rl_recipe(base, "budget.steps=3", "checkpoint.every=2", "objective.kl_coef=0.1"), tmp_path / "run", resume=True
    )
    straight, resumed = (
        load_file(checkpoints(run)[-1] / "adapter_model.safetensors") for run in (adapted, tmp_path / "run")
    )
    assert straight.keys() == resumed.keys() and all(straight[key].equal(resumed[key]) for key in straight)


def test_the_merged_model_is_the_same_without_peft(
    adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["merge", str(adapted), "--out", str(tmp_path / "merged")])
    assert caught.value.code == 0 and "wrote" in capsys.readouterr().out
    merged = load(tmp_path / "merged").denoiser
    assert not is_adapter(tmp_path / "merged") and not adapter_layers(merged.model)
    torch.testing.assert_close(logits(merged), logits(load(adapted).denoiser), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("given", "expected"), [(None, "bfloat16"), ("float32", "float32")])
def test_a_merged_model_keeps_what_its_base_says(
    base: Path, tmp_path: Path, given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dtype, the ids that end a completion, and all else that its generation config says."""
    policy = load(base, torch.bfloat16)
    policy = replace(policy, denoiser=replace(policy.denoiser, generation_config={"top_p": 0.9, "eos_token_id": [3]}))
    policy = replace(policy, denoiser=replace(policy.denoiser, stop_ids=(*policy.denoiser.stop_ids, 3)))
    save(policy, tmp_path / "base")
    run_rl(rl_recipe(tmp_path / "base", "budget.steps=2", "dtype=bfloat16"), tmp_path / "run")
    adapted = load(tmp_path / "run")
    right = {
        name: cast(Any, module).get_base_layer().weight + cast(Any, module).get_delta_weight("default")
        for name, module in adapter_layers(adapted.denoiser.model).items()
    }
    loaded: list[PreTrainedModel] = []

    def count(model: PreTrainedModel, *rest: Any) -> None:
        loaded.append(model)
        read_weights(model, *rest)

    monkeypatch.setattr(loading, "read_weights", count)
    options = [] if given is None else ["--dtype", given]
    with pytest.raises(SystemExit) as caught:
        main(["merge", str(tmp_path / "run"), "--out", str(tmp_path / "merged"), *options])
    assert caught.value.code == 0
    assert len(loaded) == 1, "one copy of the model"
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert {str(weight.dtype) for weight in stored.values()} == {f"torch.{expected}"}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == expected
    for name, weight in right.items():  # rounded once, from float32
        assert stored[f"{name}.weight"].equal(weight.to(stored[f"{name}.weight"].dtype)), name
    config = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert config["top_p"] == 0.9 and set(config["eos_token_id"]) == set(policy.denoiser.stop_ids)
    assert set(load(tmp_path / "merged").denoiser.stop_ids) == set(policy.denoiser.stop_ids)


def test_an_adapter_finds_its_base_from_any_folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = shutil.copytree(checkpoints(base)[-1], tmp_path / "models" / "base")
    monkeypatch.chdir(tmp_path)
    run_rl(rl_recipe(Path("models/base"), "budget.steps=1"), Path("run"))
    right = logits(load("run").denoiser)
    recorded = json.loads((checkpoints(Path("run"))[-1] / "adapter_config.json").read_text())
    assert recorded["base_model_name_or_path"] == str(copied)
    monkeypatch.chdir("models")
    assert logits(load("../run").denoiser).equal(right)
    other = load(copied)
    with torch.no_grad():
        other.denoiser.model.get_input_embeddings().weight.add_(1)
    save(other, copied)
    with pytest.raises(UserError, match=r"holds an adapter of another model than the one in .*models/base now"):
        load("../run")


def test_the_hub_is_never_asked_for_a_base_that_was_a_folder(
    adapted: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*args: object, **options: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("diffpo.models.model_paths.fetch", ask)
    copy = shutil.copytree(checkpoints(adapted)[-1], tmp_path / "adapter")
    for name in (str(tmp_path / "gone" / "base"), "./base", "../a/b/base", "base"):
        rename_base(copy, name)
        with pytest.raises(
            UserError, match=r"holds an adapter of the model in .*base, which is not there; bring it back"
        ):
            load(copy)
    run_merge(copy, tmp_path / "merged", base=str(base))
    # A relative name, as PEFT writes it, is taken where it is a folder, and told.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoints(base)[-1], tmp_path / "org" / "base")
    rename_base(copy, "org/base")
    load(copy)
    assert f"the folder {tmp_path}/org/base is taken for it" in capsys.readouterr().err


def rename_base(adapter: Path, name: str) -> None:
    """Let an adapter say that its base is there, as one that no run has written."""
    for written in (MANIFEST, "progress.json"):
        (adapter / written).unlink(missing_ok=True)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": name}))


def test_an_adapter_that_is_more_than_two_factors_is_not_merged(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    denoiser = load(base)
    targets = r".*\.(q_proj|ff_out)"
    options = {"dora": {"use_dora": True}, "saved": {"modules_to_save": ["wte"]}}
    for name, more in options.items():
        denoiser = load(base)
        config = LoraConfig(r=2, target_modules=targets, **more)  # type: ignore[arg-type]
        denoiser.denoiser.model.add_adapter(config, "default")
        with pytest.raises(UserError, match=r"more than two factors for a matrix .*; merge it with PEFT"):
            merge_adapter(denoiser.denoiser.model)
        assert not (tmp_path / name).exists()


def test_colleagues_can_read_what_is_saved(adapted: Path, base: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(load(adapted), tmp_path / "adapter")
        save(load(base), tmp_path / "model")
    finally:
        os.umask(before)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.rglob("*") if file.is_file()}
    assert {"adapter_model.safetensors", "model.safetensors"} <= modes.keys()
    assert set(modes.values()) == {"0o640"}, modes


def test_supervised_training_of_an_adapter_then_rl_on_the_merged_model(base: Path, tmp_path: Path) -> None:
    settings = [*SFT, *LORA, f"base={json.dumps(str(base))}", "steps=2"]
    run_sft(load_recipe(SftRecipe, None, settings), tmp_path / "sft")
    assert is_adapter(checkpoints(tmp_path / "sft")[-1])
    with pytest.raises(UserError, match=r"holds an adapter of .*; make one of both first: diffpo merge"):
        run_rl(rl_recipe(tmp_path / "sft", "budget.steps=1"), tmp_path / "rl")
    assert not (tmp_path / "rl").exists()


def test_an_adapter_of_another_model_is_refused_by_name(adapted: Path, base: Path, tmp_path: Path) -> None:
    folder = checkpoints(adapted)[-1]
    for name, weights in altered(load_file(folder / "adapter_model.safetensors")).items():
        copy = tmp_path / name
        copy.mkdir()
        (copy / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
        save_file(weights, copy / "adapter_model.safetensors")
        with pytest.raises(UserError, match=f"does not fit the model in .*1 {name}, .*blocks.0.attn_out.*trained on"):
            load(copy)


def altered(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    one = min(weights)
    assert "blocks.0.attn_out" in one
    return {
        "missing": {key: value for key, value in weights.items() if key != one},
        "misshapen": weights | {one: weights[one][:, 1:].contiguous()},
        "unexpected": weights | {one.replace("attn_out", "attn_outer"): weights[one].clone()},
    }


def test_what_cannot_be_merged_or_adapted_is_refused(base: Path, adapted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a whole model and no adapter"):
        run_merge(base, tmp_path / "merged")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UserError, match="is there already"):
        run_merge(adapted, tmp_path / "full")
    with pytest.raises(UserError, match=r"cannot write to .*; choose another --out"):
        run_merge(adapted, tmp_path / "full" / "x" / "y")
    with pytest.raises(UserError, match="lora adapts a model that is there"):
        load_recipe(SftRecipe, None, ["lora.rank=4"])
    with pytest.raises(UserError, match="lora trains the model, and train = 'controller' leaves it alone"):
        rl_recipe(base, "train=controller", "budget.steps=1")
