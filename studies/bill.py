"""What training costs: the table of docs/bill.md, and how far the computed step is from a measured one on this CPU.

python studies/bill.py            # write the table into docs/bill.md
python studies/bill.py --check    # train tiny and middling models, and print computed over measured (minutes)
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.runs.dry_run.accelerators import GIGA, named_accelerator
from diffpo.runs.dry_run.bill import rollout_calls
from diffpo.runs.dry_run.measure import measured_cpu
from diffpo.runs.dry_run.pilot import Pilot, read_pilot
from diffpo.runs.dry_run.size import Size
from diffpo.runs.dry_run.summary import GIB, needs_of
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

PAGE = Path(__file__).parents[1] / "docs" / "bill.md"
BEGIN, END = "<!-- written by studies/bill.py -->\n", "<!-- end -->\n"
GPUS = (1, 8, 16, 64, 256)
NODE = 8
H100 = named_accelerator("h100")
STEP = [
    "dtype=bfloat16",
    "rollout.prompts_per_step=256",
    "rollout.group_size=6",
    "rollout.max_in_flight=96",
    "objective.micro_batch_size=6",
    "gradient_checkpointing=true",
]
"""The same step on every number of GPUs, which must divide its prompts."""
LORA = ["lora.rank=128", "lora.alpha=64"]


def mixture(is_adapter: bool) -> Size:
    """Return the size of LLaDA2.0-flash: 256 experts of which 8 and a shared one see a token, the first block dense.

    From its config (github.com/inclusionAI/dFactory, configs/model_configs/llada2_flash/config.json). `block_weights`
    are the active ones. With an adapter of rank 128, on attention's matrices alone.
    """
    width, layers, vocabulary, keys, expert, dense = 4096, 32, 157184, 512, 1024, 9216
    attention = layers * 2 * (width * width + width * keys)
    router, one, first = (layers - 1) * 256 * width, 3 * width * expert, 3 * width * dense
    active = attention + router + (layers - 1) * 9 * one + first
    total = attention + router + (layers - 1) * 257 * one + first + 2 * vocabulary * width
    adapter = layers * 128 * (2 * 2 * width + 2 * (width + keys))
    return Size(
        parameters=total,
        trained=adapter if is_adapter else total,
        block_weights=active,
        layers=layers,
        width=width,
        hidden=9 * expert,
        vocabulary=vocabulary,
        cached=layers * 2 * keys,
    )


def row(name: str, recipe: RlRecipe, size: Size | None, gpus: int) -> str:
    """Return a line of the table: a model and a way to train it on so many GPUs. A `size` is that of the mixture."""
    whole = needs_of(recipe, 200, min(gpus, NODE), max(1, gpus // NODE))
    if size is not None:  # it is larger than a GPU: rollouts gather it block by block
        whole = replace(whole, size=size, is_whole=False)
    needs = whole.sharded_to_fit(H100.memory)
    peak = needs.peak_bytes / GIB
    if peak > H100.memory:
        return f"| {name} | {gpus} | {needs.layout.shard} | {peak:,.0f} | does not fit | | | |"
    found = needs.bill(H100)
    share = ", ".join(f"{part} {seconds / found.step:.0%}" for part, seconds in found.seconds.items())
    return (
        f"| {name} | {gpus} | {needs.layout.shard} | {peak:.0f} | {found.step:,.0f} | {found.hours:,.0f} "
        f"| {found.device_hours:,.0f} | {share} |"
    )


def table() -> str:
    """Return the table of docs/bill.md."""
    lines = [
        "| model, what is trained | GPUs | shard | GiB of each | s a step | hours | GPU-hours | share of a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for base in ("llada-8b", "dream-7b"):
        for way, more in (("whole", []), ("LoRA", LORA)):
            recipe = load_recipe(RlRecipe, f"d1+{base}+gsm8k", [*STEP, *more])
            lines += [row(f"{base}, {way}", recipe, None, gpus) for gpus in GPUS]
    for way, more in (("whole", []), ("LoRA", LORA)):
        recipe = load_recipe(RlRecipe, "d1+llada-8b+gsm8k", [*STEP, *more])
        lines += [row(f"100B mixture, {way}", recipe, mixture(bool(more)), gpus) for gpus in GPUS]
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """Return the page with the table as it is computed now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


@dataclass(frozen=True)
class Case:
    """A small run whose step is measured."""

    name: str
    model: Sequence[str]
    recipe: Sequence[str]
    steps: int = 8


TINY = ["steps=150"]
MIDDLING = [
    *("model.d_model=512", "model.n_layers=8", "model.n_heads=8", "model.mlp_hidden_size=1408"),
    *("steps=1", "batch=16"),
]
FEW = ["rollout.prompts_per_step=2", "rollout.group_size=4", "objective.drop_zero_std_groups=false"]
ADAM, TWO_TIMES = "optimizer.kind=adamw", "estimator={kind='two-times-mean-field'}"
CASES = (
    Case("0.8M weights, tiny-d1", TINY, ["tiny-d1"]),
    Case("0.8M weights, tiny-d1, all groups", TINY, ["tiny-d1", "objective.drop_zero_std_groups=false"]),
    Case("0.8M weights, tiny-diffpo, bounds learned too", TINY, ["tiny-diffpo"]),
    Case("0.8M weights, two tokens a call, AdamW", TINY, ["tiny-d1", "rollout.rule={kind='top-k', k=2}", ADAM]),
    Case("26M weights, one token a call, Muon", MIDDLING, ["tiny-d1", *FEW], 4),
    Case("26M weights, two-times mean-field, AdamW", MIDDLING, ["tiny-d1", *FEW, ADAM, TWO_TIMES], 4),
)


def check(folder: Path) -> Iterator[str]:
    """Yield, for each case, the computed step over the measured one: medians of CPU time, one thread."""
    torch.set_num_threads(1)
    task = 'task={kind="sudoku", min_clues=8, max_clues=12}'
    for number, case in enumerate(CASES):
        base, out = folder / f"base{len(case.model)}", folder / f"run{number}"
        if not base.exists():
            run_sft(load_recipe(SftRecipe, None, [task, *case.model, "threads=1"]), base)
        budget = f"budget={{steps={case.steps}}}"
        name, *more = case.recipe
        recipe = load_recipe(RlRecipe, name, [f"base={json.dumps(str(base))}", budget, "threads=1", *more])
        run_rl(recipe, out)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        measured = [line["cpu_seconds"] for line in lines[1:]]
        computed, rates = _computed(recipe, read_pilot(out))
        ratios = [computed / seconds for seconds in measured]
        yield (
            f"{case.name}: measured {statistics.median(measured):.3f} s ({min(measured):.3f} to {max(measured):.3f}), "
            f"computed {computed:.3f} s, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}); {rates}"
        )


def _computed(recipe: RlRecipe, pilot: Pilot) -> tuple[float, str]:
    """Return the seconds of a step on this CPU, measured now, and its rates in words."""
    needs = needs_of(recipe, pilot.prompt_tokens)
    canvases = rollout_calls(recipe, needs.work, 1, pilot)[0].canvases
    cpu = measured_cpu(needs.size, canvases, needs.work.tokens)
    rates = f"{cpu.float32 / GIGA:.0f} GFLOP/s, {cpu.memory_bandwidth / GIGA:.1f} GB/s"
    return needs.bill(cpu, pilot).step, rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="measure instead")
    if not parser.parse_args().check:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as folder:
        for line in check(Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
