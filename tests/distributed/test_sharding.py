"""Replicated, sharded, and both at once: what a run learns is what one process learns, and its checkpoints are read by
any number of processes."""

import fcntl
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.test_processes import TIMEOUT, outcome, tensors_of
from tests.helpers.families import tiny_folder
from tests.helpers.forked import Forked
from tests.helpers.tiny_runs import RL, SFT, TASK, lines_of, weights_of
from torch import distributed as dist

from diffpo.distributed.process import current_process
from diffpo.models.manifest import MANIFEST, OPTIMIZER, PROGRESS
from diffpo.models.model_paths import SHARDS, checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.runs import checkpoint
from diffpo.runs.merge import run_merge
from diffpo.sampling.policy import load
from diffpo.training import rl, rl_step
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

LAYOUTS = {"1x1": (1, 1), "4x1": (4, 1), "1x2": (2, 2), "1x3": (3, 3), "1x4": (4, 4), "2x2": (4, 2)}
"""Replicas times shards: the number of processes, and over how many of them a copy of the model is divided."""

LAYOUTS_OWN = ("seconds", "cpu_seconds", "update_tokens", "denoiser_calls", "idle_share")
"""What a log says of the layout: canvases that two micro-batches share are shown to both."""

SMALL = [*TASK, "task.cell_credit=0.5", "rollout.prompts_per_step=4", "rollout.group_size=4", "optimizer.lr=0.001"]
JOINT = [
    *(*RL, "rollout.prompts_per_step=4", "objective.micro_batch_size=3", "budget.steps=5"),
    "optimizer.lr=0.0001",  # AdamW turns the rounding of a gradient that is nearly nothing into a step of its rate
]
RECIPES: dict[str, tuple[type[SftRecipe] | type[RlRecipe], str | None, list[str]]] = {
    "sft": (SftRecipe, None, [*SFT, "batch=12", "micro_batch_size=2", "steps=5", "early_stopping.start=5"]),
    "sft of a base": (SftRecipe, None, [*SFT, "batch=8", "steps=5", "base=LLADA"]),
    "sft of Dream by Muon": (
        SftRecipe,
        None,
        [*SFT, "batch=8", "steps=5", "base=DREAM", "optimizer.kind=muon", "optimizer.lr=0.001"],
    ),
    "sft of an adapter": (SftRecipe, None, [*SFT, "batch=8", "steps=5", "base=LLADA", "lora.rank=2", "lora.alpha=4"]),
    "joint": (RlRecipe, None, [*JOINT, "base=LLADA"]),
    "joint, Dream": (RlRecipe, None, [*JOINT, "base=DREAM"]),
    "joint, one policy": (
        RlRecipe,
        "tiny-diffpo-literal",
        [*SMALL, "objective.micro_batch_size=2", "budget={steps=5}", "base=LLADA"],
    ),
    "diffpo": (RlRecipe, "tiny-diffpo", [*SMALL, "objective.micro_batch_size=2", "budget={steps=5}", "base=LLADA"]),
    "d1": (
        RlRecipe,
        "tiny-d1",
        [*SMALL, "objective.kl_coef=0.04", "objective.micro_batch_size=3", "budget={steps=5}", "base=LLADA"],
    ),
    "d1, ties dropped": (
        RlRecipe,
        "tiny-d1",
        [
            *(*SMALL, "task.cell_credit=0", "objective.drop_zero_std_groups=true", "objective.micro_batch_size=2"),
            *("budget={steps=5}", "base=LLADA"),
        ],
    ),
    "dmpo": (
        RlRecipe,
        "tiny-dmpo",
        [*SMALL, "objective.baseline=unbias", "objective.micro_batch_size=3", "budget={steps=5}", "base=LLADA"],
    ),
    "right answers": (
        RlRecipe,
        "tiny-any-speed",
        [
            *(*SMALL, "objective.batch=5", "objective.num_iterations=2", "objective.micro_batch_size=1"),
            *("budget={steps=5}", "base=LLADA"),
        ],
    ),
    "lora": (
        RlRecipe,
        None,
        [*JOINT, "train=policy", "objective.kl_coef=0.1", "lora.rank=2", "lora.alpha=4", "base=LLADA"],
    ),
    "lora, Dream": (RlRecipe, None, [*JOINT, "lora.rank=2", "lora.alpha=4", "base=DREAM"]),
}
CASES = {
    "4x1": ["sft", "joint", "lora, Dream"],
    "1x2": [*RECIPES],
    "1x4": ["sft", "joint", "dmpo", "lora, Dream"],
    "2x2": ["sft of Dream by Muon", "joint, one policy", "joint, Dream", "d1", "d1, ties dropped", "lora"],
}
"""What each layout is tested with; all with all take minutes (ALL_LAYOUTS=1)."""
if os.environ.get("ALL_LAYOUTS"):
    CASES = {layout: [*RECIPES] for layout in CASES}
STOPPED = [*JOINT, "rollout.prompts_per_step=12", "rollout.group_size=2", "base=LLADA", "checkpoint.every=1"]
"""A run that is stopped behind a step, and goes on in other layouts."""


def recipe_of(case: str, folder: Path, base: Path, *more: str) -> SftRecipe | RlRecipe:
    kind, name, overrides = RECIPES.get(case, (RlRecipe, None, STOPPED))
    places = {"base=LLADA": f"base={json.dumps(str(base))}", "base=DREAM": f"base={json.dumps(str(folder / 'dream'))}"}
    return load_recipe(kind, name, [*(places.get(each, each) for each in overrides), *more])


def train(case: str, folder: Path, base: Path, out: Path, *more: str, resume: bool = False) -> None:
    """Train a case; the completions of each step go to a file beside the run."""
    recipe = recipe_of(case, folder, base, *more)
    if isinstance(recipe, SftRecipe):
        return run_sft(recipe, out, resume)
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        collect = rl_step.collect_rollouts

        def noted(*arguments: Any) -> Any:
            batch = collect(*arguments)
            drawn.append(batch.rollout.completion_ids)
            return batch

        patch.setattr(rl, "collect_rollouts", noted)
        run_rl(recipe, out, resume)
    if current_process().is_main:
        torch.save(drawn, out.with_suffix(".drawn"))


def stop_after(step: int, *arguments: Any) -> None:
    """Train as `train` does, and end with an error behind the checkpoint of a step."""
    save = checkpoint.save_checkpoint

    def save_and_stop(out: Path, progress: Any, *more: Any) -> None:
        save(out, progress, *more)
        if progress.step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "save_checkpoint", save_and_stop)
        train(*arguments)


def share(layout: str, cases: list[str], folder: Path, base: Path, own: Path) -> None:
    """Run cases as one of several processes; how each ended goes to a file."""
    warnings.simplefilter("error")
    here, parallel = current_process(), f"parallel.shard={LAYOUTS[layout][1]}"
    dist.init_process_group("gloo", init_method=f"file://{own}/store", rank=here.rank, world_size=here.world_size)
    found = {
        case: outcome(stop_after, 2, case, folder, base, own / case, parallel)
        if case == "stopped"
        else outcome(train, case, folder, base, own / case, parallel)
        for case in cases
    }
    (own / f"outcomes-{here.rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def go_on(layout: str, folder: Path, base: Path, run: Path) -> None:
    here, parallel = current_process(), f"parallel.shard={LAYOUTS[layout][1]}"
    dist.init_process_group("gloo", init_method=f"file://{run}.store", rank=here.rank, world_size=here.world_size)
    train("stopped", folder, base, run, parallel, resume=True)
    dist.destroy_process_group()


def in_processes(layout: str, output: Path, target: Any, *arguments: Any) -> None:
    """Call a function in each process of a layout, and wait for all."""
    size, processes = LAYOUTS[layout][0], []
    for rank in range(size):
        environment = {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        own = output / f"output-{rank}"
        processes.append(Forked(target, layout, *arguments, stdout=own, stderr=own, environment=environment))
    try:
        codes = [process.wait(TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0] * size, (output / f"output-{codes.index(max(codes, key=abs))}").read_text()


def outcomes(layout: str, cases: list[str], folder: Path, base: Path, own: Path) -> list[dict[str, str]]:
    """Run cases in a layout; return how they ended in each process."""
    in_processes(layout, own, share, cases, folder, base, own)
    return [json.loads((own / f"outcomes-{rank}.json").read_text()) for rank in range(LAYOUTS[layout][0])]


@pytest.fixture(scope="module")
def folder(shared_folder: Path, base: Path) -> Path:
    """A folder with a Dream model, and with what one process has made of all cases, `one/CASE`, made once by any."""
    folder = shared_folder / "layouts"
    (folder / "one").mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            random = tiny_folder(folder / "random", "dream")
            learned = [*SFT, "batch=64", "steps=200", "checkpoint.every=1000", f"base={json.dumps(str(random))}"]
            run_sft(load_recipe(SftRecipe, None, learned), folder / "dream")
            for case in (*{each for cases in CASES.values() for each in cases}, "straight"):
                train(case, folder, base, folder / "one" / case)
            (folder / "made").touch()
    return folder


def assert_same(one: Path, many: Path) -> None:
    """The same completions, the same log but for the time it took, and the same weights up to rounding."""
    for ours, theirs in zip(lines_of(one), lines_of(many), strict=True):
        for name in LAYOUTS_OWN:
            ours.pop(name, None)
            theirs.pop(name, None)
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-5)
    if one.with_suffix(".drawn").exists():
        ours, theirs = (torch.load(run.with_suffix(".drawn")) for run in (one, many))
        assert all(torch.equal(a, b) for a, b in zip(ours[-len(theirs) :], theirs, strict=True))
    for expected, found in zip(tensors_of(checkpoints(one)[-1]), tensors_of(checkpoints(many)[-1]), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def assert_opens(found: Path, like: Path, bare: Path) -> None:
    """A checkpoint of shards has the files of one process's besides, and opens bit by bit from either."""
    names = [{path.name for path in each.iterdir()} for each in (found, like)]
    assert names[0] == names[1] | {SHARDS}
    assert (found / "config.json").read_text() == (like / "config.json").read_text()
    shutil.copytree(found, bare, ignore=shutil.ignore_patterns("model.safetensors", MANIFEST))
    exported, read = load_file(found / "model.safetensors"), load(bare).denoiser.model.state_dict()
    assert exported.keys() == read.keys() == load_file(like / "model.safetensors").keys()
    assert all(torch.equal(exported[name], read[name]) for name in read)
    run_merge(bare, merged := bare.with_name(f"{bare.name}, merged"))
    assert weights_of(merged) == weights_of(found)
    assert (merged / "config.json").read_text() == (like / "config.json").read_text()
    assert {path.name for path in merged.iterdir()} == names[1] - {MANIFEST, OPTIMIZER, PROGRESS}


@pytest.mark.parametrize("layout", CASES)
def test_a_run_is_the_same_in_every_layout(layout: str, folder: Path, base: Path, tmp_path: Path) -> None:
    cases = CASES[layout]
    assert outcomes(layout, cases, folder, base, tmp_path) == [dict.fromkeys(cases, "done")] * LAYOUTS[layout][0]
    for case in cases:
        assert_same(folder / "one" / case, tmp_path / case)
        assert sum(line.get("grad_norm", line["loss"]) != 0 for line in lines_of(tmp_path / case)) > 2, "nothing to sum"
        last, like = (checkpoints(root / case)[-1] for root in (tmp_path, folder / "one"))
        if layout == "4x1" or "lora.rank=2" in RECIPES[case][2]:
            assert not (last / SHARDS).exists(), "small, or whole in each process"
        else:
            assert_opens(last, like, tmp_path / f"bare {case}")


def test_a_sharded_run_goes_on_in_other_layouts(folder: Path, base: Path, tmp_path: Path) -> None:
    assert outcomes("1x4", ["stopped"], folder, base, tmp_path) == [{"stopped": "KeyboardInterrupt: "}] * 4
    assert [path.name for path in checkpoints(tmp_path / "stopped")[-1].glob("*.safetensors")] == [
        "controller.safetensors"
    ]
    for onto in ("1x1", "1x2", "1x3"):
        run = tmp_path / onto
        shutil.copytree(tmp_path / "stopped", run)
        in_processes(onto, tmp_path, go_on, folder, base, run)
        assert_same(folder / "one" / "straight", run)


def test_a_run_of_one_process_goes_on_sharded(folder: Path, base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        stop_after(2, "stopped", folder, base, run)
    in_processes("1x2", tmp_path, go_on, folder, base, run)
    assert_same(folder / "one" / "straight", run)
