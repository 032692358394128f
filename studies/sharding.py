"""What a rank holds, sends and waits for, measured on processes of this machine: python studies/sharding.py

A model of 50 million parameters is trained for two steps of d1 on 1, 2 and 4 processes, sharded, and the bytes of its
weights, gradients and moments in a rank are compared with the dry run's. With `--traffic BASE`, an SFT run's folder,
four processes train it for `--steps` steps by a recipe of the demo's (`--recipe`), replicated and sharded: collectives
a denoiser call, and the share of rollouts in which processes wait, by denoiser tokens. `--dealing BASE` compares ways
to deal a batch. `--checkpoints REPEATS` compares checkpoints of two processes that a run waits for with those that are
written while it goes on.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn
from torch.utils._python_dispatch import TorchDispatchMode

from diffpo.core.randomness import generator_for
from diffpo.distributed.process import current_process
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.loading import make_denoiser
from diffpo.models.model_paths import METRICS
from diffpo.models.tokenizer import char_tokenizer
from diffpo.recipes import load_recipe
from diffpo.recipes.parts import build_task
from diffpo.recipes.tables import RlRecipe, SudokuTask
from diffpo.runs.dry_run.communication import Layout
from diffpo.runs.dry_run.size import measure_model
from diffpo.runs.dry_run.summary import Needs, work_of
from diffpo.runs.run_dir import find_run
from diffpo.runs.run_lock import RunLock
from diffpo.runs.saving import Checkpoints
from diffpo.sampling.answering import answer_problems
from diffpo.sampling.policy import Policy, save
from diffpo.training.rl import run_rl
from diffpo.training.rl_setup import RlState, open_rl_run

MEBI = 2**20
SMALL_STEPS = ["rollout.prompts_per_step=4", "rollout.group_size=2", "budget={steps=2}", "objective.micro_batch_size=2"]
ADAM = ["optimizer.kind=adamw", "objective.kl_coef=0", "objective.drop_zero_std_groups=false"]


class CollectiveCounter(TorchDispatchMode):
    """Counts the collective calls of this process, those that FSDP and divided tensors make, too."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # what it is made of comes here, too
        self.count += func.namespace in ("c10d", "_c10d_functional") and "wait" not in str(func)
        return func(*args, **(kwargs or {}))


def write_base(folder: Path) -> None:
    """Write a random model of 50 million parameters."""
    tokenizer = char_tokenizer(build_task(SudokuTask()).alphabet)
    config = LLaDAConfig(
        d_model=512,
        n_layers=16,
        n_heads=8,
        mlp_hidden_size=1408,
        vocab_size=len(tokenizer),
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    save(Policy(make_denoiser(LLaDAModelLM(config), tokenizer), tokenizer), folder)


def held(tensors: Iterator[Tensor | None]) -> int:
    """Return the bytes that this process holds of tensors, of which several may share their memory."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors if tensor is not None]
    storages = {tensor.data_ptr(): tensor for tensor in local}.values()
    held = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in storages)}
    return sum(held.values())


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def as_rank(rank: int, size: int, recipe: RlRecipe, folder: Path) -> None:
    """Train as one of several processes; write what it held and sent."""
    os.environ.update(WORLD_SIZE=str(size), RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    found: dict[str, Any] = {}

    def look(state: RlState, step: int, calls: int, share: float) -> None:
        model, optimizer = state.policy.denoiser.model, state.optimizers["policy"]
        moments = optimizer.state_dict()["state"].values() if recipe.optimizer.kind == "adamw" else ()
        found.update(
            weights=held(parameter for parameter in model.parameters()),
            gradients=held(parameter.grad for parameter in model.parameters()),
            optimiser=held(value for each in moments for value in each.values() if value.ndim),
            calls=calls,
            training_peak=peak_bytes(),
        )

    started, waits, save_one = time.perf_counter(), list[float](), Checkpoints.save

    def timed(*arguments: Any, **options: Any) -> None:
        before = time.perf_counter()
        save_one(*arguments, **options)
        waits.append(time.perf_counter() - before)

    Checkpoints.save = timed  # type: ignore[method-assign]
    with CollectiveCounter() as traffic:  # type: ignore[no-untyped-call]
        run_rl(recipe, folder / "run", on_step=look)
    found |= {"collectives": traffic.count, "peak": peak_bytes()}
    found |= {"waits": waits, "run_seconds": time.perf_counter() - started}
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    if size > 1:
        dist.destroy_process_group()


def run(size: int, recipe: RlRecipe) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Return what each of `size` processes held and sent, and the run's log."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spawn(as_rank, (size, recipe, folder), nprocs=size)
        ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(size)]
        return ranks, [json.loads(line) for line in (folder / "run" / METRICS).read_text().splitlines()]


def compare_memory() -> None:
    """Print the bytes that ranks hold beside the dry run's."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        write_base(base)
        print(f"{'ranks':>5} {'part':>10} {'held, MiB':>10} {'dry run':>8} {'ratio':>6}   peak in training, at the end")
        for size in (1, 2, 4):
            overrides = [*SMALL_STEPS, *ADAM, f"parallel.shard={size}", f"base={json.dumps(str(base))}"]
            recipe = load_recipe(RlRecipe, "tiny-d1", overrides)
            ranks, _ = run(size, recipe)
            with torch.device("meta"):
                model = LLaDAModelLM(LLaDAConfig.from_pretrained(base))
            measured = measure_model(model)
            whole = replace(measured, trained=measured.parameters, trained_matrices=measured.block_weights)
            parts = Needs(recipe, whole, work_of(recipe, 17), 17, Layout(1, size, size)).parts[0]
            worst = {part: max(rank[part] for rank in ranks) for part in ("weights", "gradients", "optimiser")}
            for part, amount in (worst | {"sum": sum(worst.values())}).items():
                told = sum(parts[each] for each in worst) if part == "sum" else parts[part]
                peaks = [max(rank[each] for rank in ranks) / MEBI for each in ("training_peak", "peak")]
                peak = f"   {peaks[0]:.0f}, {peaks[1]:.0f}" if part == "sum" else ""
                print(f"{size:>5} {part:>10} {amount / MEBI:>10.1f} {told / MEBI:>8.1f} {amount / told:>6.3f}{peak}")


def compare_traffic(base: str, recipe: str, steps: int, size: int = 4) -> None:
    """Print collectives a denoiser call, and idle shares."""
    for shard in (1, size):
        overrides = [f"base={json.dumps(base)}", f"budget={{steps={steps}}}", f"parallel.shard={shard}"]
        ranks, log = run(size, load_recipe(RlRecipe, recipe, overrides))
        idle = [line["idle_share"] for line in log]
        print(
            f"{recipe}, {size} ranks, shard {shard}: {ranks[0]['collectives'] / ranks[0]['calls']:.3f} collectives a "
            f"denoiser call ({ranks[0]['collectives']} for {ranks[0]['calls']}); idle share of {len(idle)} steps: mean "
            f"{fmean(idle):.3f}, largest {max(idle):.3f}, {sum(each > 0.15 for each in idle)} above 0.15"
        )


def compare_checkpoints(repeats: int, size: int = 2) -> None:
    """Print how long checkpoints hold a run up, waited for and written behind it in turns; the last is waited for."""
    print(f"{'background':>10} {'waits, s':>24} {'run, s':>7} {'peak of a rank, MiB':>20}")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        write_base(base)
        for background in ("false", "true") * repeats:
            overrides = [*SMALL_STEPS, *ADAM, f"parallel.shard={size}", f"base={json.dumps(str(base))}"]
            overrides += ["budget={steps=6}", "checkpoint.every=2", f"checkpoint.background={background}"]
            first, second = run(size, load_recipe(RlRecipe, "tiny-d1", overrides))[0]
            waits = " ".join(f"{each:.2f}" for each in first["waits"])
            peak = max(first["peak"], second["peak"]) / MEBI
            print(f"{background:>10} {waits:>24} {first['run_seconds']:>7.1f} {peak:>20.0f}", flush=True)


def compare_dealing(base: str, recipe_name: str, steps: int, size: int = 4) -> None:
    """Print what `size` processes would compute of the first batches: whole groups each, or every fourth completion."""
    torch.set_num_threads(1)
    recipe = load_recipe(RlRecipe, recipe_name, [f"base={json.dumps(base)}"])
    with tempfile.TemporaryDirectory() as name, RunLock(Path(name) / "run") as lock:
        state = open_rl_run(recipe, find_run(Path(name) / "run", recipe, False, False, lock), lock)
        costs: dict[str, list[list[int]]] = {"all": [], "groups": [], "completions": []}
        for step in range(steps):
            count = recipe.rollout.prompts_per_step * recipe.rollout.group_size
            problems = state.task.problems("train", recipe.rollout.prompts_per_step, step)
            repeated = [problem for problem in problems for _ in range(recipe.rollout.group_size)]
            seeds = torch.randint(2**62, (count,), generator=generator_for(recipe.seed, "rollout", step))
            decoding = replace(state.decoding, temperature=recipe.rollout.temperature)

            def tokens(rows: slice) -> int:
                before = state.policy.denoiser.usage.tokens
                answer_problems(state.policy, state.task, repeated, decoding, seeds, rows)  # noqa: B023
                return state.policy.denoiser.usage.tokens - before

            costs["all"].append([tokens(slice(None))])
            costs["groups"].append([tokens(slice(count // size * i, count // size * (i + 1))) for i in range(size)])
            costs["completions"].append([tokens(slice(i, None, size)) for i in range(size)])
    for dealt in ("groups", "completions"):
        idle = fmean(1 - fmean(found) / max(found) for found in costs[dealt])
        slowest = fmean(size * max(found) / one for found, (one,) in zip(costs[dealt], costs["all"], strict=True))
        print(f"{recipe_name}, {size} ranks, {dealt} dealt: idle {idle:.3f}, slowest {slowest:.2f} of an even share")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traffic", metavar="BASE", help="an SFT run to train from")
    parser.add_argument("--dealing", metavar="BASE", help="an SFT run to draw from")
    parser.add_argument("--checkpoints", metavar="REPEATS", type=int)
    parser.add_argument("--recipe", default="tiny-diffpo")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    assert current_process().world_size == 1
    # Else the C library keeps what is freed, and a peak tells of its heap.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    if arguments.dealing:
        compare_dealing(arguments.dealing, arguments.recipe, arguments.steps)
    elif arguments.checkpoints:
        compare_checkpoints(arguments.checkpoints)
    elif arguments.traffic:
        compare_traffic(arguments.traffic, arguments.recipe, arguments.steps)
    else:
        compare_memory()
