"""`diffpo sft`, `diffpo rl` and `diffpo sampler`: train by a recipe, or only show what that would take."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffpo.cli.next_step import say_next, say_next_run
from diffpo.cli.options import RESUME_AUTO, Model, Overrides
from diffpo.core.errors import UserError
from diffpo.core.options import Resume
from diffpo.core.output import show
from diffpo.distributed.process import require_single_process
from diffpo.distributed.together import joined, refused_together

if TYPE_CHECKING:
    from diffpo.recipes.tables import RlRecipe, SftRecipe
else:
    RlRecipe = SftRecipe = Any  # importing them costs too much for `--help`

Instead = Callable[["RlRecipe | SftRecipe"], None]


RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A TOML file, or names of `diffpo recipes` joined with +.")
]
RunDir = Annotated[Path | None, typer.Option("--out", help="The run's folder.", file_okay=False, metavar="DIR")]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint; --resume auto: if any.")]
ResumeAuto = Annotated[bool, typer.Option(RESUME_AUTO, hidden=True)]
Extend = Annotated[bool, typer.Option("--extend", help="With --resume: the budget may have been raised.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print all keys and what the run would take.")]
Rehearse = Annotated[bool, typer.Option("--rehearse", help="Only run it in small, and say what is wrong.")]

BOTH = "Options of --dry-run (docs/bill.md) and --rehearse (docs/models.md)"
DRY_RUN = "Options of --dry-run"
Devices = Annotated[
    int, typer.Option(min=1, metavar="N", help="GPUs that share each step, of each node.", rich_help_panel=BOTH)
]
DeviceMemory = Annotated[
    float | None,
    typer.Option(min=0, metavar="GIB", help="Memory of a GPU. [default: --device's]", rich_help_panel=BOTH),
]
Nodes = Annotated[int, typer.Option(min=1, metavar="N", help="Nodes of --devices each.", rich_help_panel=DRY_RUN)]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="a100, h100, h200, b200, l40s, rtx4090; cpu: measures this machine.",
        rich_help_panel=DRY_RUN,
    ),
]
PromptTokens = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Of a prompt. [default: the pilot's, or 200]", rich_help_panel=DRY_RUN),
]
PilotRun = Annotated[
    Path | None,
    typer.Option(
        "--pilot",
        file_okay=False,
        metavar="RUN_DIR",
        help="A run whose denoiser calls are expected again.",
        rich_help_panel=DRY_RUN,
    ),
]
Tflops = Annotated[
    float | None,
    typer.Option(metavar="TFLOP/S", help="Of products, as measured.", rich_help_panel=DRY_RUN),
]
MemoryBandwidth = Annotated[
    float | None,
    typer.Option(metavar="GB/S", help="Of a device's memory, as measured.", rich_help_panel=DRY_RUN),
]
LinkBandwidth = Annotated[
    float | None,
    typer.Option(metavar="GB/S", help="One way between devices, as measured.", rich_help_panel=DRY_RUN),
]


def sft(
    recipe: RecipeName,
    out: RunDir = None,
    overrides: Overrides = None,
    resume: ResumeFlag = False,
    resume_auto: ResumeAuto = False,
    extend: Extend = False,
    dry_run: DryRun = False,
    rehearse: Rehearse = False,
    devices: Devices = 1,
    device_memory: DeviceMemory = None,
    nodes: Nodes = 1,
    device: Device = "h100",
    prompt_tokens: PromptTokens = None,
    pilot: PilotRun = None,
    tflops: Tflops = None,
    memory_bandwidth: MemoryBandwidth = None,
    link_bandwidth: LinkBandwidth = None,
) -> None:
    """Fine-tune a denoiser on solved problems.

    \b
    Examples:
      diffpo sft sudoku4-base --out runs/base
      diffpo sft d1-sft task.source=rows.jsonl --dry-run --device h100
    """
    rates = (tflops, memory_bandwidth, link_bandwidth)
    show_needs = partial(_print_dry_run, prompt_tokens, (nodes, devices), device, device_memory, pilot, rates)
    instead = _instead(show_needs if dry_run else None, (out, resume, devices, device_memory) if rehearse else None)
    _train("sft", recipe, overrides, out, "auto" if resume_auto else resume, extend, instead)


def rl(
    recipe: RecipeName,
    out: RunDir = None,
    overrides: Overrides = None,
    resume: ResumeFlag = False,
    resume_auto: ResumeAuto = False,
    extend: Extend = False,
    dry_run: DryRun = False,
    rehearse: Rehearse = False,
    devices: Devices = 1,
    device_memory: DeviceMemory = None,
    nodes: Nodes = 1,
    device: Device = "h100",
    prompt_tokens: PromptTokens = None,
    pilot: PilotRun = None,
    tflops: Tflops = None,
    memory_bandwidth: MemoryBandwidth = None,
    link_bandwidth: LinkBandwidth = None,
) -> None:
    """Train a denoiser, its learned sampler or both with rewards.

    \b
    Examples:
      diffpo rl tiny-diffpo base=runs/base --out runs/rl
      diffpo rl d1+llada-8b+gsm8k+1gpu task.source=train.jsonl --rehearse
    """
    rates = (tflops, memory_bandwidth, link_bandwidth)
    show_needs = partial(_print_dry_run, prompt_tokens, (nodes, devices), device, device_memory, pilot, rates)
    instead = _instead(show_needs if dry_run else None, (out, resume, devices, device_memory) if rehearse else None)
    _train("rl", recipe, overrides, out, "auto" if resume_auto else resume, extend, instead)


def sampler(
    base: Model,
    overrides: Overrides = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="A TOML file or a built-in name. [default: the defaults]")
    ] = None,
    out: RunDir = None,
) -> None:
    """Fit a learned sampler to a denoiser that stays as it is.

    It takes the price of a call: what one call per token costs in accuracy (docs/sampler.md).

    \b
    Example:
      diffpo sampler runs/rl --out runs/sampler
    """
    from diffpo.recipes import load_recipe
    from diffpo.recipes.stored import fitted_task, over_stored_task
    from diffpo.recipes.tables import SamplerRecipe

    loaded = load_recipe(
        SamplerRecipe, recipe, [*over_stored_task(base, recipe, overrides or ()), f"base={json.dumps(base)}"]
    )
    fitted_task(loaded)  # a task that cannot be had is refused before torch is imported
    if out is None:
        raise UserError("where to? Give --out, the folder for the model with its sampler")
    from diffpo.evaluation.fit_sampler import run_fit_sampler

    show(run_fit_sampler(loaded, out))
    say_next("eval", str(out))


def _say_next_of(recipe: RlRecipe | SftRecipe, run_dir: Path) -> None:
    """Say how what was trained is measured or, where its task tells nothing of answers, tried."""
    from diffpo.recipes.tables import is_graded

    if is_graded(recipe.task):
        say_next("eval", str(run_dir))
    else:
        say_next("sample", str(run_dir), "--prompt", "What is 2 + 3?")


def _train(
    verb: str,
    recipe: str,
    overrides: list[str] | None,
    out: Path | None,
    resume: Resume,
    extend: bool,
    instead: Instead | None,
) -> None:
    """Train by a recipe of the verb or, where there is something to do `instead` with it, do that."""
    from diffpo.recipes.training_recipe import load_training_recipe

    with joined():
        with refused_together():
            loaded = load_training_recipe(recipe, overrides or (), verb)
        if instead is not None:
            instead(loaded)
            say_next_run(verb, recipe, overrides)
            return
        if out is None:
            raise UserError(
                "where to? Give --out, or --dry-run to see what the run would take, or --rehearse to run it in small"
            )
        from diffpo.api.start import start_training

        start_training(loaded, out, resume, extend)
    _say_next_of(loaded, out)


def _instead(dry_run: Instead | None, rehearsed: tuple[Path | None, bool, int, float | None] | None) -> Instead | None:
    """Return what is done instead of training: the dry run, else a rehearsal as `_rehearse` takes it, else nothing.

    Raises UserError where several processes were started for what one does.
    """
    if dry_run is not None:
        require_single_process("a dry run")
        return dry_run
    if rehearsed is not None:
        require_single_process("a rehearsal")
        return partial(_rehearse, *rehearsed)
    return None


def _print_dry_run(
    prompt_tokens: int | None,
    layout: tuple[int, int],
    device: str,
    device_memory: float | None,
    pilot: Path | None,
    rates: tuple[float | None, float | None, float | None],
    recipe: RlRecipe | SftRecipe,
) -> None:
    """Print the dry run; `layout` is nodes and devices of each, `rates` those of `with_rates`."""
    from diffpo.runs.dry_run.machine import machine_for
    from diffpo.runs.dry_run.summary import dry_run_report

    machine, tokens = machine_for(recipe, prompt_tokens, layout, device, device_memory, pilot, rates)
    show(dry_run_report(recipe, tokens, machine=machine))


def _rehearse(
    out: Path | None, resume: bool, devices: int, device_memory: float | None, recipe: RlRecipe | SftRecipe
) -> None:
    """Rehearse, print what was found, and exit with 2 where anything is wrong."""
    if resume:
        raise UserError("a rehearsal starts anew, and resumes by itself; leave out --resume")
    from diffpo.rehearsal.run import rehearse

    rehearsal = rehearse(recipe, out, devices, device_memory)
    show(rehearsal.report())
    if rehearsal.findings.faults:
        raise typer.Exit(2)
