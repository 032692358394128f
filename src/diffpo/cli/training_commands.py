"""`diffpo sft`, `diffpo rl` and `diffpo sampler`: train by a recipe, or only show what that would take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffpo.cli.options import RESUME_AUTO, Model, Overrides
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
PromptTokens = Annotated[int, typer.Option(min=1, help="With --dry-run: tokens of a prompt.")]
Devices = Annotated[int, typer.Option(min=1, help="With --dry-run or --rehearse: GPUs that share each step.")]
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
DeviceMemory = Annotated[float | None, typer.Option(min=0, help="With --rehearse: GiB of a GPU of the run's machine.")]


def sft(
    recipe: SftName,
    out: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    resume_auto: ResumeAuto = False,
    extend: Extend = False,
    dry_run: DryRun = False,
    prompt_tokens: PromptTokens = 200,
    devices: Devices = 1,
    rehearse: Rehearse = False,
    device_memory: DeviceMemory = None,
) -> None:
    """Fine-tune a denoiser on solved problems."""
    from diffpo.recipes import load_recipe
    from diffpo.recipes.tables import SftRecipe

    loaded = load_recipe(SftRecipe, recipe, overrides or ())
    if dry_run:
        _print_dry_run(loaded, prompt_tokens, devices)
        return
    if rehearse:
        _rehearse(loaded, out, resume, devices, device_memory)
        return
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
    prompt_tokens: PromptTokens = 200,
    devices: Devices = 1,
    rehearse: Rehearse = False,
    device_memory: DeviceMemory = None,
) -> None:
    """Train a denoiser, its controller or both with rewards.

    The controller is the learned sampler: it chooses an entropy bound for each prompt, or the tokens of each call.
    """
    from diffpo.recipes import load_recipe
    from diffpo.recipes.tables import RlRecipe

    loaded = load_recipe(RlRecipe, recipe, overrides or ())
    if dry_run:
        _print_dry_run(loaded, prompt_tokens, devices)
        return
    if rehearse:
        _rehearse(loaded, out, resume, devices, device_memory)
        return
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


def _print_dry_run(recipe: RlRecipe | SftRecipe, prompt_tokens: int, devices: int) -> None:
    require_single_process("a dry run")
    from diffpo.runs.dry_run.summary import dry_run_report

    show(dry_run_report(recipe, prompt_tokens, devices))


def _rehearse(
    recipe: RlRecipe | SftRecipe, out: Path | None, resume: bool, devices: int, device_memory: float | None
) -> None:
    """Rehearse, print what was found, and exit with 2 where anything is wrong."""
    require_single_process("a rehearsal")
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
