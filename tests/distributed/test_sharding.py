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
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffpo.core.errors import UserError
from diffpo.distributed.process import current_process, rank_slice
from diffpo.distributed.sharding import REPLICATE, SHARD, gathered, is_sharded, shard_, whole
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.layers import blocks_of
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.manifest import MANIFEST, OPTIMIZER, PROGRESS
from diffpo.models.model_paths import SHARDS, checkpoints
from diffpo.models.shards import read_shards, shapes_of, write_shards
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import ParallelRecipe, PolicyOptimizerRecipe, RlRecipe, SftRecipe
from diffpo.runs.divided_state import put_together, take_apart
from diffpo.runs.merge import run_merge
from diffpo.runs.optimizer import policy_optimizer
from diffpo.runs.resume import RunProgress, restore
from diffpo.runs.saving import Checkpoints
from diffpo.sampling.policy import load, load_folder
from diffpo.training import rl, rl_step, rounds
from diffpo.training.optimizer_step import clip_gradients_
from diffpo.training.rl import run_rl
from diffpo.training.rounds import join_passes
from diffpo.training.sft import run_sft

LAYOUTS = {"1x1": (1, 1), "4x1": (4, 1), "1x2": (2, 2), "1x3": (3, 3), "1x4": (4, 4), "2x2": (4, 2)}
"""Replicas times shards: the number of processes, and over how many of them a copy of the model is divided."""

LAYOUTS_OWN = ("seconds", "cpu_seconds", "rollout_tokens", "update_tokens", "denoiser_calls", "idle_share")
"""What a log says of the layout: canvases that two micro-batches, or rows of two processes, share are shown to both."""

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
    "dmpo, ties dropped": (
        RlRecipe,
        "tiny-dmpo",
        [
            *(*SMALL, "task.cell_credit=0", "objective.drop_zero_std_groups=true", "rollout.group_size=2"),
            *("budget={steps=5}", "base=LLADA"),
        ],
    ),
    "right answers": (
        RlRecipe,
        "tiny-any-speed",
        [
            *(*SMALL, "objective.batch=5", "objective.num_iterations=2", "objective.micro_batch_size=1"),
            *("rollout.prompts_per_step=16", "rollout.group_size=1", "budget={steps=5}", "base=LLADA"),
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
    "4x1": ["right answers"],
    "1x2": ["joint", "d1, ties dropped", "lora"],
    "1x4": ["sft"],
    "2x2": ["sft of Dream by Muon", "dmpo, ties dropped"],
}
"""What each layout is tested with in each run of the tests; all with all take minutes (`make test-slow`)."""
IS_WHOLE = bool(os.environ.get("ALL_LAYOUTS"))
if IS_WHOLE:
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
    save = Checkpoints.save

    def save_and_stop(checkpoints: Checkpoints, progress: RunProgress, *more: Any, **options: Any) -> None:
        save(checkpoints, progress, *more, **options)
        if progress.step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
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


def check_pieces(layout: str, folder: Path) -> None:
    """The least that the cases rest on, in each of two processes."""
    warnings.simplefilter("error")
    here = current_process()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=here.rank, world_size=here.world_size)
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=(REPLICATE, SHARD))
    for vocabulary in (40, 5000):  # logits are kept, or the head is read behind the forward pass
        for dtype in (torch.float32, torch.bfloat16):
            check_passes(vocabulary, dtype, mesh)
    check_gathering(mesh)
    check_state(mesh)
    check_failed_write(folder, mesh)
    dist.destroy_process_group()


class CollectiveCounter(TorchDispatchMode):
    """Counts the collective calls of this process."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        self.count += func.namespace in ("c10d", "_c10d_functional") and "wait" not in str(func)
        return func(*args, **(kwargs or {}))


def small_denoiser(vocabulary: int, dtype: torch.dtype) -> ModelDenoiser:
    torch.manual_seed(0)
    config = LLaDAConfig(d_model=32, n_layers=2, n_heads=2, mlp_hidden_size=48, vocab_size=vocabulary)
    return ModelDenoiser(LLaDAModelLM(config).to(dtype).eval(), 3, (2,))


def logp_of(denoiser: ModelDenoiser, rows: slice) -> torch.Tensor:
    """Return log-probabilities of some rows of a batch of canvases."""
    ids = torch.randint(4, 40, (4, 9), generator=torch.Generator().manual_seed(1))[rows]
    at = torch.ones_like(ids, dtype=torch.bool)
    return denoiser.predict(ids, at, at).logp(torch.arange(ids.numel()), ids.flatten(), 1.0)


def check_passes(vocabulary: int, dtype: torch.dtype, mesh: DeviceMesh) -> None:
    """Passes of a sharded model give what those of a whole one give, and its gradients are summed over processes."""
    rank, whole_one, sharded = (
        current_process().rank,
        small_denoiser(vocabulary, dtype),
        small_denoiser(vocabulary, dtype),
    )
    shard_(sharded.model, blocks_of(sharded.model), mesh)
    assert is_sharded(sharded.model) and not is_sharded(whole_one.model)
    assert {p.dtype for p in sharded.model.parameters()} == {torch.float32}, "its weights are its masters"
    own = slice(2 * rank, 2 * rank + 2)
    expected = logp_of(whole_one, slice(None))
    with torch.no_grad():  # before any phase
        assert torch.equal(logp_of(sharded, own), expected.detach().view(4, 9)[own].flatten())
        assert not isinstance(sharded.model.get_output_embeddings().weight, DTensor), "the head is there to be read"
    with gathered(sharded.model), torch.no_grad():
        for _ in range(1 + 2 * rank):  # another number of calls in each process
            found = logp_of(sharded, own)
        assert torch.equal(found, expected.detach().view(4, 9)[own].flatten())
    with torch.no_grad():
        logp_of(sharded, own)  # which leaves the outermost unit gathered
    expected.sum().backward()
    logp_of(sharded, own).sum().backward()
    before = sharded.usage.canvases
    join_passes(sharded, 2)
    assert sharded.usage.canvases == before, "what it joins in is no work of its own"
    parameters = [*sharded.model.parameters()]
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    # In bfloat16 a weight's gradient is rounded once in each pass, and summed in float32.
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (0.05, 0.05)
    for parameter, other in zip(parameters, whole_one.model.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None and parameter.grad.dtype == torch.float32
        torch.testing.assert_close(whole(parameter.grad), other.grad.float(), rtol=rtol, atol=atol)
    if dtype == torch.float32:
        beside = torch.nn.Parameter(torch.zeros(3))  # as a controller's, in the same step
        beside.grad = torch.tensor([1.0, 2.0, 2.0])
        expected_norm = torch.nn.utils.clip_grad_norm_([*whole_one.model.parameters(), beside], 0.5)
        clipped = beside.grad.clone()
        beside.grad = torch.tensor([1.0, 2.0, 2.0])
        found_norm = clip_gradients_([*parameters, beside], 0.5)
        assert found_norm == pytest.approx(float(expected_norm), rel=2e-4)
        torch.testing.assert_close(beside.grad, clipped, rtol=2e-4, atol=0)
        first = next(whole_one.model.parameters()).grad
        torch.testing.assert_close(whole(parameters[0].grad), first, rtol=1e-4, atol=1e-6)


def check_gathering(mesh: DeviceMesh) -> None:
    """Within a phase nothing is sent; behind it a block's weights are there for its own passes alone."""
    denoiser = small_denoiser(40, torch.float32)
    shard_(denoiser.model, blocks_of(denoiser.model), mesh)
    with gathered(denoiser.model), torch.no_grad():
        with CollectiveCounter() as phase:  # type: ignore[no-untyped-call]
            logp_of(denoiser, slice(0, 1))
        assert phase.count == 0
    with torch.no_grad(), CollectiveCounter() as passes:  # type: ignore[no-untyped-call]
        for _ in range(2):
            logp_of(denoiser, slice(0, 1))
    assert passes.count == 2 * 2 + 1, "two blocks at each pass; the rest stays until a backward pass"
    logp_of(denoiser, slice(0, 1)).sum().backward()
    assert all(isinstance(parameter, DTensor) for parameter in denoiser.model.parameters())


def check_state(mesh: DeviceMesh) -> None:
    """A state is taken apart into each weight and each moment once, and put together again."""
    denoiser = small_denoiser(40, torch.bfloat16)
    model = denoiser.model
    model.config.dtype = model.dtype
    shard_(model, blocks_of(model), mesh)
    optimizer = policy_optimizer(model, PolicyOptimizerRecipe(lr=0.01))
    logp_of(denoiser, slice(0, 1)).sum().backward()
    optimizer.step()
    count = len([*model.parameters()])
    state, tensors = take_apart({"policy": optimizer.state_dict(), "other": [1, (2.5, "x")]}, model)
    assert len(tensors) == 3 * count, "weights, which are the masters, and two moments"
    assert state["other"] == [1, (2.5, "x")]
    again, empty = put_together(state, {name: tensor.shape for name, tensor in tensors.items()}, model)
    assert empty.keys() == tensors.keys()
    for name, tensor in empty.items():
        other = tensors[name]
        assert isinstance(tensor, DTensor) and isinstance(other, DTensor) and tensor.placements == other.placements
        tensor.copy_(2 * other)
    before = whole(next(model.parameters()).detach()).clone()
    optimizer.load_state_dict(again["policy"])
    assert torch.equal(whole(next(model.parameters()).detach()), 2 * before)
    alone, plain = put_together(state, {name: tensor.shape for name, tensor in tensors.items()}, torch.nn.Linear(1, 1))
    assert not any(isinstance(tensor, DTensor) for tensor in plain.values()) and len(plain) == len(tensors)
    assert len(alone["policy"]["masters"]) == count


def check_failed_write(folder: Path, mesh: DeviceMesh) -> None:
    """What one process cannot write is told in all, by its reason; what it can is read back in parts or whole."""
    tensor = distribute_tensor(torch.arange(12.0).view(3, 4), mesh, [Replicate(), Shard(0)])
    with pytest.MonkeyPatch.context() as patch:
        if current_process().rank == 1:
            patch.setattr(HuggingFaceStorageWriter, "write_data", no_space)
        with pytest.raises(OSError, match=r"^process 1: .*No space left on device"):
            write_shards({"a": tensor}, folder / "full")
    write_shards({"a": tensor}, folder / "shards")
    assert shapes_of(folder / "shards") == {"a": (3, 4)}
    part, all_of_it = torch.zeros_like(tensor), torch.zeros(3, 4, dtype=torch.float64)
    read_shards(folder / "shards", {"a": part})
    read_shards(folder / "shards", {"a": all_of_it})
    assert torch.equal(local_of(part), local_of(tensor)) and all_of_it.flatten().tolist() == list(range(12))
    with pytest.raises(UserError, match="cannot be read"):
        read_shards(folder / "shards", {"b": all_of_it})
    dist.barrier()
    if current_process().rank == 0:  # what torch does not look at: it would leave memory as it was
        first, second = sorted((folder / "shards").glob("*.safetensors"))
        moved = first.rename(folder / first.name)
        with pytest.raises(UserError, match=r"shards lacks parts of a, or has foreign ones; fetch it again$"):
            shapes_of(folder / "shards")
        moved.rename(first)
        moved = second.rename(folder / second.name)
        assert shapes_of(folder / "shards") == {"a": (2, 4)}, "which is not the model's"
        moved.rename(second)
        shutil.copy(first, folder / "shards" / "foreign.safetensors")
        with pytest.raises(UserError, match="or has foreign ones"):
            shapes_of(folder / "shards")
    dist.barrier()


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local()


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


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
            steps = "steps=200" if IS_WHOLE else "steps=5"  # its rollouts are of all layouts alone
            learned = [*SFT, "batch=64", steps, "checkpoint.every=1000", f"base={json.dumps(str(random))}"]
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
    max((bare / SHARDS).iterdir()).unlink()
    with pytest.raises(UserError, match=r"the shards in .* do not fit its config\.json \(.* more\); fetch it again$"):
        run_merge(bare, bare.with_name(f"{bare.name}, half"))


def test_pieces(tmp_path: Path) -> None:
    in_processes("1x2", tmp_path, check_pieces, tmp_path)


def test_a_bfloat16_run_in_shards_keeps_its_masters(base: Path, tmp_path: Path) -> None:
    """They are float32 in its shards; one process goes on from them; what is exported is bfloat16."""
    run = tmp_path / "run"
    in_processes("1x2", tmp_path, train_bfloat16, base, run, 3)
    last = checkpoints(run)[-1]
    assert (last / "model.safetensors").exists()
    assert {tensor.dtype for tensor in load_file(last / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((last / "config.json").read_text())["dtype"] == "bfloat16"
    stored = torch.load(last / "optimizer.pt", weights_only=True)["policy"]
    assert len(stored.get("masters", ())) == len(load_file(last / "model.safetensors"))
    denoiser = load_folder(last, torch.bfloat16, "cpu").denoiser
    optimizer = policy_optimizer(denoiser.model, PolicyOptimizerRecipe(lr=0.01))
    restore(last, {"policy": optimizer}, denoiser.model)
    masters = optimizer.state_dict()["masters"]  # of one process, whose weights are bfloat16
    assert {master.dtype for master in masters} == {torch.float32}
    assert any(bool((master != master.bfloat16()).any()) for master in masters), "or nothing more than the weights"
    for parameter, master in zip(denoiser.model.parameters(), masters, strict=True):
        assert torch.equal(parameter, master.bfloat16())
    train_bfloat16("1x1", base, run, 5)
    assert [line["step"] for line in lines_of(run)] == [1, 2, 3, 4, 5]


def train_bfloat16(layout: str, base: Path, run: Path, steps: int) -> None:
    size, shard = LAYOUTS[layout]
    if size > 1:
        here = current_process()
        dist.init_process_group("gloo", init_method=f"file://{run}.store", rank=here.rank, world_size=size)
    overrides = [*SFT, "batch=8", f"steps={steps}", "dtype=bfloat16", f"base={json.dumps(str(base))}"]
    recipe = load_recipe(SftRecipe, None, [*overrides, f"parallel.shard={shard}"])
    run_sft(recipe, run, "auto", extend=run.exists())
    if size > 1:
        dist.destroy_process_group()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("count", "unit", "micro"), [(12, 4, 3), (8, 4, 4), (4, 4, 8), (5, 1, 2), (0, 4, 2)])
def test_all_processes_make_as_many_passes_of_a_sharded_model(
    size: int, count: int, unit: int, micro: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = small_denoiser(40, torch.float32)
    for is_one in (False, True):
        monkeypatch.setattr(rounds, "is_sharded", lambda model, is_one=is_one: is_one)
        monkeypatch.setenv("WORLD_SIZE", str(size))
        found, needed = [], []
        for rank in range(size):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("LOCAL_RANK", str(rank))
            found.append(rounds.count_rounds(denoiser, count, micro, unit))
            needed.append(-(-len(range(count)[rank_slice(count, unit)]) // micro))
        assert found == ([max(needed)] * size if is_one else needed)


@pytest.mark.parametrize(
    ("shard", "replicate", "found"),
    [("auto", "auto", (2, 2)), (4, "auto", (4, 1)), (1, 4, (1, 4)), ("auto", 4, (1, 4)), ("auto", 1, (4, 1))],
)
def test_what_a_recipe_leaves_open_follows_from_the_rest(shard: Any, replicate: Any, found: tuple[int, int]) -> None:
    assert ParallelRecipe(shard=shard, replicate=replicate).layout_of(4, automatic=2) == found


@pytest.mark.parametrize(("shard", "replicate"), [(3, "auto"), ("auto", 3), (2, 1), (8, "auto")])
def test_a_layout_of_other_processes_is_a_sentence(shard: Any, replicate: Any) -> None:
    told = r"^parallel\.shard \d x parallel\.replicate \d is \d, and there are 4 processes; "
    with pytest.raises(UserError, match=told):
        ParallelRecipe(shard=shard, replicate=replicate).layout_of(4)


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
    for onto in ("1x1", "1x2", "1x3") if IS_WHOLE else ("1x1", "1x3"):
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
