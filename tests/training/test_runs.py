"""Runs that end and go on: what the loops write, resuming bit for bit, kills, Ctrl-C, failed writes, seeds."""

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.forked import run_doomed
from tests.helpers.tiny_runs import (
    GREEDY_STAGE,
    SFT,
    lines_of,
    rl_overrides,
    rl_recipe,
    sft_recipe,
    snapshot,
    toml_of,
    weights_of,
)
from torch import Tensor

from diffpo.core.errors import NonFiniteLossError, Stopped, UserError
from diffpo.core.rollout import Rollout
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.denoiser_output import DenoiserOutput
from diffpo.models.llada import LLaDAModelLM
from diffpo.models.model_paths import METRICS, RECIPE, checkpoints
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.runs.optimizer import adam
from diffpo.runs.resume import RunProgress, read_progress, restore
from diffpo.runs.run_dir import Run
from diffpo.sampling import answering as answering_module
from diffpo.sampling.answering import answer_problems
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.policy import load
from diffpo.sampling.rules import EntropyBound
from diffpo.training import rl_setup, rl_step, sft
from diffpo.training.policy_update import update_policy
from diffpo.training.rl import run_rl
from diffpo.training.rollouts import Batch, collect_batch
from diffpo.training.sft import run_sft

KILLED_STEPS = 8

ROLLOUT_KEYS = {"step", "reward", "reward_std", "frac_reward_zero_std", "accuracy", "nfe", "entropy"}
ROLLOUT_KEYS |= {"completions/mean_length"}
COST_KEYS = {"rollout_tokens", "update_tokens", "denoiser_calls", "cpu_seconds", "seconds"}
POLICY_KEYS = {"loss", "clip_fraction", "policy_ratio", "importance_weight_mean", "grad_norm", "learning_rate"}
WEIGHT_KEYS = {"importance_weight_capped", "importance_weight_ess", "importance_weight_floored"}
SIDE_KEYS = {"importance_weight_right", "importance_weight_wrong"}
QUARTER_KEYS = {f"importance_weight_{name}_{quarter}" for name in ("ess", "capped") for quarter in (1, 2, 3, 4)}
BOUND_KEYS = {"bound_reward", "bound_median", "bound_log_std_across_prompts", "bound_log_sigma"}


@pytest.fixture(scope="module")
def killed_recipe(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of the runs that are killed, as a file: a checkpoint at every step."""
    file = tmp_path_factory.mktemp("recipe") / "killed.toml"
    checkpointing = ["checkpoint.every=1", f"budget.steps={KILLED_STEPS}", *GREEDY_STAGE]
    file.write_text(toml_of(rl_overrides(base, *checkpointing)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def undisturbed(killed_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run_rl(load_recipe(RlRecipe, str(killed_recipe)), out)
    return snapshot(out)


def assert_whole(run: Path) -> None:
    """Every checkpoint can be loaded, optimiser and all."""
    for folder in checkpoints(run):
        denoiser = load(folder).denoiser
        assert folder.name == f"checkpoint-{read_progress(folder).step}"
        assert all(bool(p.isfinite().all()) for p in denoiser.model.parameters())
        restore(folder, {"policy": adam(denoiser.model.parameters(), sft_recipe().optimizer)}, denoiser.model)


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something when the line of this step has been written and its checkpoint has not."""
    log = Run.log

    def spy(self: Run, at: int, metrics: dict[str, float]) -> None:
        log(self, at, metrics)
        if at == step:
            action()

    monkeypatch.setattr(Run, "log", spy)


class Crash(BaseException):
    """Stands in for whatever ends a process on the spot."""


def crash(*_: Any, **__: Any) -> None:
    raise Crash


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_base_is_worth_training(base: Path, undisturbed: dict[str, Any]) -> None:
    assert 0 < sum(line["accuracy"] for line in undisturbed["log"]) < KILLED_STEPS
    assert sum(line["reward_std"] > 0 for line in undisturbed["log"]) > KILLED_STEPS / 2
    assert weights_of(checkpoints(base)[-1]).items().isdisjoint(undisturbed.items())


# ---------------------------------------------------------------------------------------------------- what is written


def test_sft_writes_its_recipe_a_line_per_step_and_checkpoints(tmp_path: Path) -> None:
    recipe, out = sft_recipe("steps=5", "checkpoint.every=2"), tmp_path / "run"
    run_sft(recipe, out)
    assert load_recipe(SftRecipe, str(out / RECIPE)) == recipe
    lines = lines_of(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert [folder.name for folder in checkpoints(out)] == ["checkpoint-4", "checkpoint-5"]
    assert read_progress(checkpoints(out)[-1]) == RunProgress(5, 40, is_finished=True)
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-4", "checkpoint-5", METRICS, RECIPE]


def test_stop_at_ends_a_run_for_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accuracies = iter([0.1, 0.6])
    monkeypatch.setattr(sft, "validate", lambda *_: next(accuracies))
    limits = ["early_stopping.accuracy=0.5", "early_stopping.start=2", "early_stopping.every=2"]
    recipe, out = sft_recipe("steps=9", *limits), tmp_path / "run"
    run_sft(recipe, out)
    assert [line.get("accuracy") for line in lines_of(out)] == [None, 0.1, None, 0.6]
    assert read_progress(checkpoints(out)[-1]).is_finished

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != METRICS}
    run_sft(recipe, out, resume=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(lines_of(out)) == 4


def test_validation_is_reported_by_steps_that_are_due(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_sft(
        sft_recipe(
            "steps=3", "early_stopping.start=1", "early_stopping.every=2", "early_stopping.problems_per_check=4"
        ),
        out,
    )
    assert ["accuracy" in line for line in lines_of(out)] == [True, False, True]


@pytest.mark.parametrize(("options", "bound"), [([], 0.0), (["early_stopping.bound=0.3"], 0.3)])
def test_validation_decodes_greedily_at_its_bound(
    options: list[str], bound: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    used: list[Decoding] = []

    def answering(*arguments: Any) -> Any:
        used.append(arguments[3])
        return answer_problems(*arguments)

    monkeypatch.setattr(sft, "answer_problems", answering)
    run_sft(
        sft_recipe("steps=1", "early_stopping.every=1", "early_stopping.problems_per_check=4", *options),
        tmp_path / "run",
    )
    assert [decoding.rule for decoding in used] == [EntropyBound(bound)]
    assert used[0].temperature == 0


def test_the_blocks_of_policy_and_base_are_compiled(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiled: list[tuple[torch.nn.Module, dict[str, Any]]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled.append((module, options)))
    run_rl(rl_recipe(base, "budget.steps=1", "objective.kl_coef=0.1", "compile=true"), tmp_path / "run")
    blocks = load(base).denoiser.model.model.transformer["blocks"]
    assert [(type(module), options) for module, options in compiled] == [(type(blocks[0]), {"dynamic": True})] * (
        2 * len(blocks)
    )
    assert len({id(module) for module, _ in compiled}) == 2 * len(blocks)


COMPILED = """
import sys
import torch
from diffpo.cli.main import main
from torch._dynamo.utils import counters

compile_module = torch.nn.Module.compile
torch.nn.Module.compile = lambda module, **options: compile_module(module, backend="eager", **options)
try:
    main()
finally:
    print("graphs", counters["stats"]["unique_graphs"])
"""
"""`diffpo` that traces what it compiles, and lets torch itself run it. In a process of its own: shapes that are checked
cannot be traced."""


@pytest.mark.slow
def test_compiled_blocks_give_the_same_run(base: Path, tmp_path: Path) -> None:
    said = {}
    for name, is_compiled in (("plain", "false"), ("compiled", "true")):
        settings = ["budget.steps=2", "objective.kl_coef=0.1", "rollout.prompts_per_step=2", f"compile={is_compiled}"]
        file = tmp_path / f"{name}.toml"
        file.write_text(dump_recipe(rl_recipe(base, *settings)), encoding="utf-8")
        command = [sys.executable, "-c", COMPILED, "rl", str(file), "--out", str(tmp_path / name)]
        said[name] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert said["plain"] == "graphs 0" != said["compiled"]
    for plain, other in zip(lines_of(tmp_path / "plain"), lines_of(tmp_path / "compiled"), strict=True):
        for clock in ("seconds", "cpu_seconds"):
            plain.pop(clock)
            other.pop(clock)
        assert other == pytest.approx(plain, rel=1e-4, abs=1e-5)
    weights = (load(folder).denoiser.model.state_dict().keys() for folder in (base, tmp_path / "compiled"))
    assert next(weights) == next(weights)


@pytest.mark.parametrize("estimator", ["mean-field", "two-times-mean-field"])
@pytest.mark.parametrize(("train", "kl"), [("policy", 0.0), ("policy", 0.1), ("joint", 0.1), ("controller", 0.1)])
def test_rl_trains_what_it_is_told_to(train: str, kl: float, estimator: str, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = [f"train={train}", f"objective.kl_coef={kl}", f"estimator.kind={estimator}", "budget.steps=2"]
    run_rl(rl_recipe(base, *settings), out)

    policy = set() if train == "controller" else POLICY_KEYS | WEIGHT_KEYS | ({"kl"} if kl else set())
    bounds = set() if train == "policy" else BOUND_KEYS
    lines = lines_of(out)
    # Means over right answers, wrong ones and quarters of a rollout are there where the batch has some.
    optional = (SIDE_KEYS | QUARTER_KEYS) if policy else set()
    assert [set(line) - optional for line in lines] == [ROLLOUT_KEYS | COST_KEYS | policy | bounds] * 2
    assert all(bool(set(line) & optional) == bool(policy) for line in lines)
    assert all(math.isfinite(value) for line in lines for value in line.values())

    last = checkpoints(out)[-1]
    weights, base_weights = weights_of(last), weights_of(checkpoints(base)[-1])
    is_unchanged = base_weights.items() <= weights.items()
    assert is_unchanged == (train == "controller")
    assert (load(out).controller is None) == (train == "policy")
    assert any(path.name.startswith("controller") for path in last.iterdir()) == (train != "policy")


def test_a_controller_of_hidden_states_and_a_grid_trains_is_kept_and_goes_on(base: Path, tmp_path: Path) -> None:
    grid = ["controller.features=hidden", "controller.distribution=categorical", "controller.bounds=[0.1, 0.5, 2.0]"]
    run_rl(rl_recipe(base, *grid, "budget.steps=4"), tmp_path / "straight")
    halves = rl_recipe(base, *grid, "budget.steps=4", "checkpoint.every=2")
    with pytest.raises(Crash), pytest.MonkeyPatch.context() as patch:
        after_step(patch, 3, crash)
        run_rl(halves, tmp_path / "halves")
    run_rl(halves, tmp_path / "halves", resume=True)
    assert weights_of(checkpoints(tmp_path / "straight")[-1]) == weights_of(checkpoints(tmp_path / "halves")[-1])
    controller = load(checkpoints(tmp_path / "straight")[-1]).controller
    assert controller is not None and (controller.feature_kind, controller.num_features) == ("hidden", 32)
    assert controller.bounds == (0.1, 0.5, 2.0)
    assert bool(controller.state_dict()["head.2.weight"].any()), "it has learned"
    assert all(line["bound_median"] == pytest.approx(0.5) for line in lines_of(tmp_path / "straight")[:1])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_shared_objective_has_one_optimiser_and_goes_on_bit_for_bit(kind: str, base: Path, tmp_path: Path) -> None:
    shared = ["controller.objective=shared", f"optimizer.kind={kind}", "objective.redraw=true", "budget.steps=4"]
    run_rl(rl_recipe(base, *shared), tmp_path / "straight")
    halves = rl_recipe(base, *shared, "checkpoint.every=2")
    with pytest.raises(Crash), pytest.MonkeyPatch.context() as patch:
        after_step(patch, 3, crash)
        run_rl(halves, tmp_path / "halves")
    run_rl(halves, tmp_path / "halves", resume=True)
    assert snapshot(tmp_path / "straight") == snapshot(tmp_path / "halves")
    last = checkpoints(tmp_path / "straight")[-1]
    assert list(torch.load(last / "optimizer.pt", weights_only=True)) == ["policy"]
    controller = load(last).controller
    assert controller is not None and bool(controller.state_dict()["head.2.weight"].any()), "it has learned"
    for line in lines_of(tmp_path / "straight"):
        assert line["bound_reward"] == line["reward"]
        assert line.keys() >= BOUND_KEYS


def test_slots_and_a_cache_reach_the_sampler(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[int | None, str]] = []

    def spy(*arguments: Any) -> Rollout:
        asked.append((arguments[3].max_in_flight, arguments[3].cache))
        return sample(*arguments)

    monkeypatch.setattr(answering_module, "sample", spy)
    options = ("rollout.max_in_flight=5", "rollout.block_length=4", "rollout.cache=prefix")
    run_rl(rl_recipe(base, "budget.steps=1", *options), tmp_path / "run")
    assert asked == [(5, "prefix")]


def test_a_joint_run_ends_with_the_policy_at_rest_and_greedy_rollouts(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[float, float]] = []

    def spy(*arguments: Any) -> Batch:
        asked.append((arguments[3].temperature, arguments[6].nfe_penalty))
        return collect_batch(*arguments)

    monkeypatch.setattr(rl_step, "collect_batch", spy)
    keep = ["checkpoint.every=1", "checkpoint.keep=9", "budget.steps=6", "controller.nfe_penalty=0.4"]
    greedy_stage = [
        "controller.greedy_stage.share=0.5",
        "controller.greedy_stage.nfe_penalty=0.2",
        "controller.greedy_stage.lr=0.06",
    ]
    run_rl(rl_recipe(base, *keep, *greedy_stage), tmp_path / "run")
    assert asked == [(1.0, 0.4)] * 3 + [(0.0, 0.2)] * 3
    assert ["loss" in line for line in lines_of(tmp_path / "run")] == [True] * 3 + [False] * 3
    folders = checkpoints(tmp_path / "run")
    policies = [{k: v for k, v in weights_of(f).items() if k.startswith("model.")} for f in folders]
    controllers = [{k: v for k, v in weights_of(f).items() if k.startswith("controller.")} for f in folders]
    assert [now == after for now, after in pairwise(policies)] == [False, False, True, True, True]
    assert not any(now == after for now, after in pairwise(controllers))
    states = [torch.load(folder / "optimizer.pt", weights_only=True) for folder in folders]
    rates = [state["controller"]["param_groups"][0]["lr"] for state in states]
    assert rates == pytest.approx([3e-3, 2e-3, 1e-3, 6e-2, 4e-2, 2e-2]), "each stage has a schedule of its own"


@pytest.mark.parametrize("estimator", ["mean-field", "two-times-mean-field", "exact", "coupled"])
def test_denoiser_calls_are_all_canvases_that_the_denoiser_was_shown(
    estimator: str, base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of rollouts, of both policies in the update, and of the controller's calibration."""
    canvases = 0
    predict = ModelDenoiser.predict

    def spy(self: ModelDenoiser, canvas: Tensor, *arguments: Any) -> DenoiserOutput:
        nonlocal canvases
        canvases += len(canvas)
        return predict(self, canvas, *arguments)

    monkeypatch.setattr(ModelDenoiser, "predict", spy)
    settings = ["objective.kl_coef=0.1", "objective.num_iterations=3", f"estimator.kind={estimator}", "budget.steps=2"]
    run_rl(rl_recipe(base, *settings), tmp_path / "run")
    assert lines_of(tmp_path / "run")[-1]["denoiser_calls"] == canvases
    assert read_progress(checkpoints(tmp_path / "run")[-1]).denoiser_calls == canvases


def test_a_controller_is_calibrated_in_parts_that_memory_has_room_for(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same statistics from calls of seven problems each as from one call of all."""
    sizes: list[int] = []
    predict = ModelDenoiser.predict

    def spy(self: ModelDenoiser, canvas: Tensor, *arguments: Any) -> DenoiserOutput:
        sizes.append(len(canvas))
        return predict(self, canvas, *arguments)

    monkeypatch.setattr(ModelDenoiser, "predict", spy)
    found = []
    for part in (256, 7):
        tokens = load(base).denoiser.model.get_input_embeddings().num_embeddings
        monkeypatch.setattr(rl_setup, "CALIBRATION_LOGITS", part * 16 * tokens + 3)
        run_rl(rl_recipe(base, "budget.steps=1"), tmp_path / str(part))
        found.append(weights_of(checkpoints(tmp_path / str(part))[-1]))
    assert sizes[0] == 256 and sizes[sizes.index(7) :][:37] == [7] * 36 + [4]
    assert found[0].keys() == found[1].keys()
    one, many = (load_file(checkpoints(tmp_path / part)[-1] / "controller.safetensors") for part in ("256", "7"))
    for name in one:
        torch.testing.assert_close(many[name], one[name], rtol=1e-4, atol=1e-5)


def test_a_budget_of_calls_ends_a_run_at_the_first_step_beyond_it(base: Path, tmp_path: Path) -> None:
    run_rl(rl_recipe(base, "train=policy", "budget.denoiser_calls=150"), tmp_path / "run")
    *before, last = [line["denoiser_calls"] for line in lines_of(tmp_path / "run")]
    assert before and max(before) < 150 <= last
    assert read_progress(checkpoints(tmp_path / "run")[-1]).denoiser_calls == last


def test_a_budget_that_is_gone_before_the_first_step_is_told(base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"before the first step took \d+ denoiser calls, and budget.denoiser_calls is 2"
    ):
        run_rl(rl_recipe(base, "budget.denoiser_calls=2"), tmp_path / "rl")


def test_the_learning_rate_rises_over_optimiser_steps(base: Path, tmp_path: Path) -> None:
    """An RL step holds two of them, at the rate of the first."""
    keep = [
        "checkpoint.every=1",
        "checkpoint.keep=9",
        "optimizer.warmup=3",
        "optimizer.lr=0.003",
        "optimizer.decay=none",
    ]
    run_rl(rl_recipe(base, *keep, "train=policy", "objective.num_iterations=2", "budget.steps=3"), tmp_path / "rl")
    run_sft(sft_recipe(*keep, "steps=4"), tmp_path / "sft")
    for name, expected in (("rl", [0.001, 0.003, 0.003]), ("sft", [0.001, 0.002, 0.003, 0.003])):
        states = [torch.load(folder / "optimizer.pt", weights_only=True) for folder in checkpoints(tmp_path / name)]
        assert [state["policy"]["param_groups"][0]["lr"] for state in states] == pytest.approx(expected)


@pytest.mark.parametrize(("wrong", "count"), [(1.0, 1), (0.6, 0)])
def test_a_run_that_will_collapse_is_warned_of_once(
    wrong: float, count: int, base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    def collapsing(*arguments: Any) -> dict[str, float]:
        return update_policy(*arguments) | {"importance_weight_right": 0.2, "importance_weight_wrong": wrong}

    monkeypatch.setattr(rl_step, "update_policy", collapsing)
    run_rl(rl_recipe(base, "train=policy", "budget.steps=3"), tmp_path / "run")
    assert capsys.readouterr().out.count("near 1 on wrong answers (1.00) and far below on right ones (0.20)") == count


# -------------------------------------------------------------------------------------------------------------- seeds


def test_equal_seeds_give_equal_runs_and_another_seed_another(base: Path, tmp_path: Path) -> None:
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(len(found))  # the global generator has no part in it
        run_rl(rl_recipe(base, f"seed={seed}", "budget.steps=2"), tmp_path / name)
        run_sft(sft_recipe(f"seed={seed}", "steps=2"), tmp_path / f"sft-{name}")
        found.append((snapshot(tmp_path / name), snapshot(tmp_path / f"sft-{name}")))
    for first, second, other in zip(*found, strict=True):
        assert first == second
        assert all(first[key] != other[key] for key in first if key.startswith("model.") and "norm" not in key)
        assert first["log"] != other["log"]


# ------------------------------------------------------------------------------------------------------------- resume


@pytest.fixture(scope="module")
def straight(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("straight") / "run"
    run_rl(rl_recipe(base, "budget.steps=4", "checkpoint.every=2"), out)
    return snapshot(out)


@pytest.fixture(scope="module")
def straight_sft(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("straight-sft") / "run"
    run_sft(sft_recipe("steps=4", "checkpoint.every=1"), out)
    return snapshot(out)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_rl_stopped_by_ctrl_c_goes_on_bit_for_bit(
    step: int, base: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe, out = rl_recipe(base, "budget.steps=4", "checkpoint.every=2"), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="--resume"):
        after_step(patch, step, ctrl_c)
        run_rl(recipe, out)
    assert checkpoints(out)[-1].name == f"checkpoint-{step}"
    assert len(lines_of(out)) == step
    run_rl(recipe, out, resume=True)
    assert snapshot(out) == straight


@pytest.mark.parametrize("step", [1, 2, 3])
def test_sft_stopped_by_ctrl_c_goes_on_bit_for_bit(
    step: int, straight_sft: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe, out = sft_recipe("steps=4", "checkpoint.every=9"), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="--resume"):
        after_step(patch, step, ctrl_c)
        run_sft(recipe, out)
    assert checkpoints(out)[-1].name == f"checkpoint-{step}"
    run_sft(recipe, out, resume=True)
    assert snapshot(out) == straight_sft


def test_muon_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = sft_recipe("optimizer.kind=muon", "optimizer.lr=0.001", "optimizer.warmup=3", "steps=4")
    run_sft(recipe, tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="--resume"):
        after_step(patch, 2, ctrl_c)
        run_sft(recipe, tmp_path / "run")
    run_sft(recipe, tmp_path / "run", resume=True)
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "straight")
    assert any("/muon/" in key and "momentum" in key for key in snapshot(tmp_path / "run"))


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("step", [1, 3])
def test_what_was_logged_after_the_last_checkpoint_is_done_again(
    step: int, is_cut: bool, base: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also what is half a line. At step 1 there is no checkpoint yet: the run begins anew, its calibration too."""
    recipe, out = rl_recipe(base, "budget.steps=4", "checkpoint.every=2"), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Crash):
        after_step(patch, step, crash)
        run_rl(recipe, out)
    assert [line["step"] for line in lines_of(out)] == list(range(1, step + 1))
    if is_cut:
        (out / METRICS).write_bytes((out / METRICS).read_bytes()[:-20])
    run_rl(recipe, out, resume=True)
    assert snapshot(out) == straight


def test_a_finished_run_is_left_as_it_is(base: Path, straight: dict[str, Any], tmp_path: Path) -> None:
    recipe, out = rl_recipe(base, "budget.steps=4", "checkpoint.every=2"), tmp_path / "run"
    run_rl(recipe, out)
    run_rl(recipe, out, resume=True)
    assert snapshot(out) == straight
    with pytest.raises(UserError, match="already holds a run"):
        run_rl(recipe, out)


def test_a_second_ctrl_c_does_not_wait_for_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loss = sft.denoising_loss

    def interrupted(*arguments: Any) -> Tensor:
        ctrl_c()
        ctrl_c()
        return loss(*arguments)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sft, "denoising_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sft(sft_recipe("steps=2"), tmp_path / "run")
    assert not checkpoints(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


# --------------------------------------------------------------------------------------------------- checkpoints fail


def failing(function: Callable[..., Any], call: int, is_done_first: bool = False) -> Callable[..., Any]:
    """The function, crashing at its call-th call (1-based), before or after it has done its work."""
    count = 0

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        result = None if count == call and not is_done_first else function(*arguments, **options)
        if count == call:
            raise Crash
        return result

    return wrapped


@pytest.mark.parametrize(
    ("target", "name", "call", "is_done_first"),
    [
        (Path, "mkdir", 4, True),  # the run's folder, the first two checkpoints' and this one's
        (LLaDAModelLM, "save_pretrained", 3, False),
        (LLaDAModelLM, "save_pretrained", 3, True),
        (torch, "save", 3, False),
        (torch, "save", 3, True),
        (os, "fsync", 29, False),
        (Path, "rename", 3, False),
        (Path, "rename", 3, True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_checkpoint_that_fails_half_way_harms_none(
    target: Any,
    name: str,
    call: int,
    is_done_first: bool,
    straight_sft: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    recipe, out = sft_recipe("steps=4", "checkpoint.every=1"), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(target, name, failing(getattr(target, name), call, is_done_first))
        run_sft(recipe, out)
    assert_whole(out)
    assert {folder.name for folder in checkpoints(out)} & {"checkpoint-2", "checkpoint-3"}
    run_sft(recipe, out, resume=True)
    assert snapshot(out) == straight_sft
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-3", "checkpoint-4", METRICS, RECIPE]


def test_an_old_checkpoint_that_is_half_gone_harms_none(
    straight_sft: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe, out = sft_recipe("steps=4", "checkpoint.every=1"), tmp_path / "run"
    rmtree = shutil.rmtree

    def half(path: Path, **options: Any) -> None:
        if path.name != ".checkpoint-1.tmp":
            return rmtree(path, **options)
        (path / "config.json").unlink()
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(shutil, "rmtree", half)
        run_sft(recipe, out)
    run_sft(recipe, out, resume=True)
    assert snapshot(out) == straight_sft
    assert [folder.name for folder in checkpoints(out)] == ["checkpoint-3", "checkpoint-4"]


def test_every_file_of_a_checkpoint_is_flushed_before_it_gets_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flushed: list[int] = []
    at_rename: list[bool] = []
    fsync, rename = os.fsync, Path.rename

    def fsync_spy(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def rename_spy(self: Path, target: Path) -> Path:
        at_rename.extend(path.stat().st_ino in flushed for path in (self, *self.rglob("*")))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync_spy)
    monkeypatch.setattr(Path, "rename", rename_spy)
    run_sft(sft_recipe("steps=1"), tmp_path / "run")
    assert len(at_rename) > 5 and all(at_rename)
    assert flushed[-1] == (tmp_path / "run").stat().st_ino


@pytest.mark.parametrize("keep", [1, 3])
def test_old_checkpoints_go(keep: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_sft(sft_recipe("steps=11", "checkpoint.every=1", f"checkpoint.keep={keep}", "batch=1"), out)
    assert [folder.name for folder in checkpoints(out)] == [f"checkpoint-{step}" for step in range(12 - keep, 12)]


@pytest.mark.parametrize("loop", ["sft", "rl"])
def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(
    loop: str, base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def poison() -> None:
        def spoilt(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            optimizer.param_groups[0]["params"][0].data.fill_(math.nan)

        monkeypatch.setattr(sft if loop == "sft" else rl_step, "set_learning_rate", spoilt)

    after_step(monkeypatch, 2, poison)
    with pytest.raises(NonFiniteLossError):
        if loop == "sft":
            run_sft(sft_recipe("steps=4", "checkpoint.every=1"), out)
        else:
            run_rl(rl_recipe(base, "train=policy", "budget.steps=4", "checkpoint.every=1"), out)
    assert [folder.name for folder in checkpoints(out)] == ["checkpoint-1", "checkpoint-2"]
    assert_whole(out)


# ---------------------------------------------------------------------------------------------------- real processes


@pytest.mark.parametrize("flushed", [11, *(pytest.param(count, marks=pytest.mark.slow) for count in (18, 25))])
def test_rl_killed_twice_ends_where_an_undisturbed_run_does(
    flushed: int, killed_recipe: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Once within a checkpoint, after so many files (two of them the recipe's), and once between two."""
    out = tmp_path / "run"
    arguments = ["rl", str(killed_recipe), "--out", str(out)]
    code, _ = run_doomed("fsync", signal.SIGKILL, flushed, arguments, tmp_path)
    assert code == -signal.SIGKILL
    assert any(out.glob(".checkpoint-*")), "killed while a checkpoint was being written"
    assert_whole(out)
    code, _ = run_doomed("log", signal.SIGKILL, 2, [*arguments, "--resume"], tmp_path)
    assert code == -signal.SIGKILL
    assert_whole(out)
    run_rl(load_recipe(RlRecipe, str(killed_recipe)), out, resume=True)
    assert snapshot(out) == undisturbed


def test_sft_killed_ends_where_an_undisturbed_run_does(tmp_path: Path) -> None:
    file, out = tmp_path / "sft.toml", tmp_path / "run"
    file.write_text(toml_of([*SFT, "steps=12", "checkpoint.every=2"]), encoding="utf-8")
    code, _ = run_doomed("fsync", signal.SIGKILL, 17, ["sft", str(file), "--out", str(out)], tmp_path)
    assert code == -signal.SIGKILL
    assert any(out.glob(".checkpoint-*"))
    assert_whole(out)
    recipe = load_recipe(SftRecipe, str(file))
    run_sft(recipe, out, resume=True)
    run_sft(recipe, tmp_path / "straight")
    assert snapshot(out) == snapshot(tmp_path / "straight")


def test_one_ctrl_c_ends_the_command_with_a_checkpoint_and_a_word_on_how_to_go_on(
    killed_recipe: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ["rl", str(killed_recipe), "checkpoint.every=1000", "--out", str(out)]
    code, errors = run_doomed("log", signal.SIGINT, 2, arguments, tmp_path)
    assert code == 130
    (folder,) = checkpoints(out)
    assert read_progress(folder).step == len(lines_of(out)) == 2
    assert "Traceback" not in errors
    (told,) = errors.splitlines()
    assert "step 2" in told and "--resume" in told

    run_rl(load_recipe(RlRecipe, str(killed_recipe), ["checkpoint.every=1000"]), out, resume=True)
    assert snapshot(out) == undisturbed
