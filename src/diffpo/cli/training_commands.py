"""`diffpo sft`, `diffpo rl` and `diffpo sampler`: train by a recipe, or only show what that would take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffpo.cli.options import RESUME_AUTO, Model, Overrides
from diffpo.cli.together import joined, refused_together
from diffpo.core.errors import UserError
from diffpo.core.files import check_writable
from diffpo.core.output import show
from diffpo.distributed.process import require_single_process

if TYPE_CHECKING:
    from diffpo.recipes.tables import RlRecipe, SftRecipe
else:
    RlRecipe = SftRecipe = Any  # importing them costs too much for `--help`


def _recipe_argument(folder: str) -> Any:
    """Return the argument RECIPE, whose help lists the built-in recipes of a folder.

    It looks at the files itself: `diffpo.recipes` has the names, too, but importing it costs too much for `--help`.
    """
    files = (Path(__file__).parents[1] / "recipes" / folder).glob("*.toml")
    names = ", ".join(sorted(file.stem for file in files))
    return typer.Argument(metavar="RECIPE", help=f"A TOML file, or the name of a built-in recipe: {names}.")


SftName = Annotated[str, _recipe_argument("sft")]
RlName = Annotated[str, _recipe_argument("rl")]
RunDir = Annotated[Path | None, typer.Option("--out", help="The run's directory.", file_okay=False)]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on from the last whole checkpoint in the run's directory; `--resume auto` starts where there is none.",
    ),
]
ResumeAuto = Annotated[bool, typer.Option(RESUME_AUTO, hidden=True)]
Extend = Annotated[bool, typer.Option("--extend", help="With --resume: the recipe's budget may have been raised.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only print all keys of the recipe and what the run would take: no weights, no data, no accelerator.",
    ),
]
PromptTokens = Annotated[
    int | None,
    typer.Option(min=1, help="With --dry-run: tokens of a prompt; without it the pilot's, or 200.", show_default="200"),
]
Devices = Annotated[
    int, typer.Option(min=1, help="With --dry-run or --rehearse: GPUs that share each step; with --nodes, of a node.")
]
Nodes = Annotated[int, typer.Option(min=1, help="With --dry-run: nodes of --devices GPUs each.")]
Device = Annotated[
    str,
    typer.Option(
        help="With --dry-run: the accelerator whose time is computed: a100, h100, h200, b200, l40s, rtx4090, or cpu, "
        "which measures this machine."
    ),
]
PilotRun = Annotated[
    Path | None,
    typer.Option(
        "--pilot", help="With --dry-run: a run's folder, whose denoiser calls are expected again.", file_okay=False
    ),
]
Tflops = Annotated[
    float | None, typer.Option(help="With --dry-run: TFLOP/s that products reach, measured, in place of --device's.")
]
MemoryBandwidth = Annotated[
    float | None, typer.Option(help="With --dry-run: GB/s of a device's memory, measured, in place of --device's.")
]
LinkBandwidth = Annotated[
    float | None,
    typer.Option(help="With --dry-run: GB/s in one direction between devices, measured, in place of --device's."),
]
Rehearse = Annotated[
    bool,
    typer.Option(
        "--rehearse",
        help="Run it in small, on random weights: your data, rewards, tokenizer and template, some steps, a "
        "checkpoint, a resumption and an evaluation, in a folder that is removed (--out keeps it). Ends with what "
        "is wrong, in words; exit code 2 if anything is. Example: d1+llada-8b+gsm8k+1gpu task.source=train.jsonl "
        "--rehearse",
    ),
]
DeviceMemory = Annotated[
    float | None,
    typer.Option(
        min=0, help="With --dry-run or --rehearse: GiB of a GPU of the run's machine (--dry-run: --device's)."
    ),
]


def sft(
    recipe: SftName,
    out: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    resume_auto: ResumeAuto = False,
    extend: Extend = False,
    dry_run: DryRun = False,
    prompt_tokens: PromptTokens = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    device: Device = "h100",
    device_memory: DeviceMemory = None,
    pilot: PilotRun = None,
    tflops: Tflops = None,
    memory_bandwidth: MemoryBandwidth = None,
    link_bandwidth: LinkBandwidth = None,
    rehearse: Rehearse = False,
) -> None:
    """Fine-tune a denoiser on solved problems."""
    from diffpo.recipes import load_recipe
    from diffpo.recipes.tables import SftRecipe

    _require_single(dry_run, rehearse)
    with joined():
        with refused_together():
            loaded = load_recipe(SftRecipe, recipe, overrides or ())
        if dry_run:
            rates = (tflops, memory_bandwidth, link_bandwidth)
            _print_dry_run(loaded, prompt_tokens, (nodes, devices), device, device_memory, pilot, rates)
            return
        if rehearse:
            _rehearse(loaded, out, resume, devices, device_memory)
            return
        with refused_together():
            run_dir = _checked_run_dir(out, loaded, is_there=resume)
        from diffpo.training.sft import run_sft

        run_sft(loaded, run_dir, "auto" if resume_auto else resume, extend=extend)


def rl(
    recipe: RlName,
    out: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    resume_auto: ResumeAuto = False,
    extend: Extend = False,
    dry_run: DryRun = False,
    prompt_tokens: PromptTokens = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    device: Device = "h100",
    device_memory: DeviceMemory = None,
    pilot: PilotRun = None,
    tflops: Tflops = None,
    memory_bandwidth: MemoryBandwidth = None,
    link_bandwidth: LinkBandwidth = None,
    rehearse: Rehearse = False,
) -> None:
    """Train a denoiser, its controller or both with rewards.

    The controller is the learned sampler: it chooses an entropy bound for each prompt, or the tokens of each call.
    """
    from diffpo.recipes import load_recipe
    from diffpo.recipes.tables import RlRecipe

    _require_single(dry_run, rehearse)
    with joined():
        with refused_together():
            loaded = load_recipe(RlRecipe, recipe, overrides or ())
        if dry_run:
            rates = (tflops, memory_bandwidth, link_bandwidth)
            _print_dry_run(loaded, prompt_tokens, (nodes, devices), device, device_memory, pilot, rates)
            return
        if rehearse:
            _rehearse(loaded, out, resume, devices, device_memory)
            return
        with refused_together():
            run_dir = _checked_run_dir(out, loaded, is_there=resume)
        from diffpo.training.rl import run_rl

        run_rl(loaded, run_dir, "auto" if resume_auto else resume, extend=extend)


def sampler(
    base: Model,
    overrides: Overrides = None,
    recipe: Annotated[
        str | None, typer.Option(help="A TOML file or a built-in name; without it, the defaults.")
    ] = None,
    out: RunDir = None,
) -> None:
    """Fit a learned sampler to a denoiser: it takes the price of a call, and the denoiser stays as it is."""
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


def _require_single(dry_run: bool, rehearse: bool) -> None:
    """Raise UserError where several processes were started for what one does."""
    if dry_run or rehearse:
        require_single_process("a dry run" if dry_run else "a rehearsal")


def _print_dry_run(
    recipe: RlRecipe | SftRecipe,
    prompt_tokens: int | None,
    layout: tuple[int, int],
    device: str,
    device_memory: float | None,
    pilot: Path | None,
    rates: tuple[float | None, float | None, float | None],
) -> None:
    """Print the dry run; `layout` is nodes and devices of each, `rates` those of `with_rates`."""
    from diffpo.runs.dry_run.machine import machine_for
    from diffpo.runs.dry_run.summary import dry_run_report

    machine, tokens = machine_for(recipe, prompt_tokens, layout, device, device_memory, pilot, rates)
    show(dry_run_report(recipe, tokens, machine=machine))


def _rehearse(
    recipe: RlRecipe | SftRecipe, out: Path | None, resume: bool, devices: int, device_memory: float | None
) -> None:
    """Rehearse, print what was found, and exit with 2 where anything is wrong."""
    if resume:
        raise UserError("a rehearsal starts anew, and resumes by itself; leave out --resume")
    from diffpo.rehearsal.run import rehearse

    rehearsal = rehearse(recipe, out, devices, device_memory)
    show(rehearsal.report())
    if rehearsal.findings.faults:
        raise typer.Exit(2)


def _checked_run_dir(out: Path | None, recipe: RlRecipe | SftRecipe, is_there: bool) -> Path:
    """Return `out`. Raises UserError where it is not given or cannot be written, and for inputs that cannot be used."""
    if out is None:
        raise UserError(
            "where to? Give --out, or --dry-run to see what the run would take, or --rehearse to run it in small"
        )
    from diffpo.recipes.tasks import check_inputs

    check_inputs(recipe)
    if not is_there:
        check_writable(out, is_folder=True)
    return out
