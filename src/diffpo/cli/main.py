"""The command line. Every verb imports its work when it runs, so that `--help` and a user's mistake cost no torch."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from diffpo import __version__
from diffpo.core.errors import NonFiniteLossError, PeerFailedError, Stopped, UserError
from diffpo.distributed.process import current_process, require_single_process

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a built-in recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="TABLE.KEY=VALUE", help="Changes to the recipe: optimizer.lr=1e-4")
]
RunDir = Annotated[Path | None, typer.Option("--out", help="The run's directory.", file_okay=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the run's directory.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder, a run's, or ORG/NAME[@REVISION].")]
ModelDir = Annotated[Path, typer.Argument(metavar="MODEL_DIR", exists=True, file_okay=False)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what the run would take: no weights, no data, no accelerator.")
]
PromptTokens = Annotated[int, typer.Option(min=1, help="With --dry-run: tokens of a prompt.")]
Devices = Annotated[int, typer.Option(min=1, help="With --dry-run: GPUs that share each step.")]
Seed = Annotated[int, typer.Option(min=0)]

WHERE_TO = "where to? Give --out, or --dry-run to see what the run would take"
SHARED = ("sft", "rl")
"""Commands that several processes can share."""
PATIENCE = 10.0
"""Seconds after which a process speaks for itself if the first has not failed as it has."""


def _print_version(is_wanted: bool) -> bool:
    if is_wanted:
        typer.echo(f"diffpo {__version__}")
        raise typer.Exit
    return is_wanted


@app.callback()
def diffpo(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train masked diffusion language models to reason better in fewer denoiser calls."""


@app.command()
def sft(
    recipe: Recipe,
    out: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    prompt_tokens: PromptTokens = 200,
    devices: Devices = 1,
) -> None:
    """Fine-tune a denoiser on solved problems."""
    from diffpo.recipes import load_recipe
    from diffpo.recipes.tables import SftRecipe
    from diffpo.recipes.tasks import check_inputs

    loaded = load_recipe(SftRecipe, recipe, overrides or ())
    if dry_run:
        require_single_process("a dry run")
        from diffpo.runs.dry_run.summary import dry_run_report

        typer.echo(dry_run_report(loaded, prompt_tokens, devices))
        return
    if out is None:
        raise UserError(WHERE_TO)
    check_inputs(loaded)
    from diffpo.training.sft import run_sft

    run_sft(loaded, out, resume)


@app.command()
def rl(
    recipe: Recipe,
    out: RunDir = None,
    overrides: Overrides = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    prompt_tokens: PromptTokens = 200,
    devices: Devices = 1,
) -> None:
    """Train a denoiser, its sampler or both with rewards."""
    from diffpo.recipes import load_recipe
    from diffpo.recipes.tables import RlRecipe
    from diffpo.recipes.tasks import check_inputs

    loaded = load_recipe(RlRecipe, recipe, overrides or ())
    if dry_run:
        require_single_process("a dry run")
        from diffpo.runs.dry_run.summary import dry_run_report

        typer.echo(dry_run_report(loaded, prompt_tokens, devices))
        return
    if out is None:
        raise UserError(WHERE_TO)
    check_inputs(loaded)
    from diffpo.training.rl import run_rl

    run_rl(loaded, out, resume)


@app.command(name="eval")
def evaluate(
    model: Model,
    overrides: Overrides = None,
    recipe: Annotated[
        str | None, typer.Option(help="A TOML file or a built-in name; without it, the defaults.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Where to write the JSON record. [default: MODEL/eval.json, or eval-NAME.json here]",
        ),
    ] = None,
) -> None:
    """Measure accuracy and denoiser calls on unseen problems."""
    from diffpo.models.hub import short_name
    from diffpo.recipes import load_recipe
    from diffpo.recipes.stored import evaluated_task
    from diffpo.recipes.tables import EvalRecipe

    loaded = load_recipe(EvalRecipe, recipe, [*(overrides or ()), f"model={json.dumps(model)}"])
    evaluated_task(loaded)
    from diffpo.evaluation.run import run_eval

    beside = Path(model) / "eval.json" if Path(model).is_dir() else Path(f"eval-{short_name(model)}.json")
    typer.echo(run_eval(loaded, out or beside))


@app.command()
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False)],
    task: Annotated[str, typer.Option(help="gsm8k, math500, countdown-d1 or sudoku-d1.")],
    rows: Annotated[bool, typer.Option("--rows", help="Also list the rows on which the scorers differ.")] = False,
) -> None:
    """Score recorded generations as d1 does, and by our own graders."""
    from diffpo.evaluation.recorded import differences, score_file, summary

    scored = score_file(file, task)
    typer.echo(summary(scored))
    if rows:
        typer.echo(differences(scored))


@app.command()
def sample(
    model: Model,
    prompt: Annotated[str, typer.Option(help="What to complete.")],
    length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of the completion. [default: its training's]"),
    ] = None,
    entropy_bound: Annotated[
        float | None,
        typer.Option(min=0, help="0: one token per denoiser call. [default: the learned sampler's choice, or 0]"),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    seed: Seed = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a CUDA device if there is one.")
    ] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the weights.")] = "float32",
) -> None:
    """Complete a prompt, token by token."""
    from diffpo.recipes.stored import sampled_length

    length = sampled_length(model, length)
    from diffpo.cli.show_completion import run_sample

    run_sample(model, prompt, length, entropy_bound, temperature, seed, device, dtype)


@app.command()
def merge(
    model_dir: ModelDir, out: Annotated[Path, typer.Option("--out", help="Where the model goes.", file_okay=False)]
) -> None:
    """Make one model of an adapter and its base."""
    from diffpo.runs.merge import run_merge

    run_merge(model_dir, out)
    typer.echo(f"wrote {out}")


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", exists=True, file_okay=False)],
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="[default: RUN_DIR/report.html]")] = None,
) -> None:
    """Write a run's report: one HTML file that needs nothing else."""
    from diffpo.report import write_report

    typer.echo(f"wrote {write_report(run_dir, out)}")


@app.command()
def study(
    out: Annotated[Path, typer.Option("--out", help="Where the results go: results/NAME.", file_okay=False)],
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a built-in study.")
    ] = None,
    overrides: Overrides = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each in a process of one thread.")] = 1,
    arms: Annotated[str | None, typer.Option(help="Some of the arms: a,b. [default: all]")] = None,
    tasks: Annotated[str | None, typer.Option(help="Some of the tasks. [default: all]")] = None,
    seeds: Annotated[str | None, typer.Option(help="Some of the seeds. [default: all]")] = None,
    work: Annotated[
        Path | None, typer.Option(file_okay=False, help="For bases and runs. [default: runs/study-NAME]")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Compare all arms with these: a,b. [default: none]")] = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave broken result lines out.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Only table and figures, from the lines.")] = False,
) -> None:
    """Run what a study of many arms, tasks and seeds still lacks, and report it."""
    references = () if against is None else tuple(against.split(","))
    if report_only:
        from diffpo.study.report import write_study_report

        typer.echo("\n".join(f"wrote {path}" for path in write_study_report(out, skip_broken, references)))
        return
    from diffpo.recipes import load_recipe
    from diffpo.recipes.tables import StudyRecipe

    if recipe is None:
        raise UserError("which study? Give a recipe, or --report-only for the table of results that are there")
    loaded = load_recipe(StudyRecipe, recipe, overrides or ())
    from diffpo.study.harness import run_study
    from diffpo.study.plan import Selection

    names = (tuple(text.split(",")) if text is not None else None for text in (arms, tasks, seeds))
    work = work or Path("runs") / f"study-{loaded.name}"
    run_study(loaded, out, work, jobs, Selection(*names), skip_broken, references)
    typer.echo(f"results and table: {out}")


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAMES", help="Benchmarks, or what their names begin with. [all]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Timed rounds; 0 counts and compares results only.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Where the records go.")] = None,
    is_list: Annotated[bool, typer.Option("--list", help="Name the benchmarks and stop.")] = False,
) -> None:
    """Measure rollouts and updates against plain references, and how far they are from what the machine can do."""
    from diffpo.bench.run import listing, run_bench

    if is_list:
        typer.echo(listing())
        return
    if any(measurement.difference for measurement in run_bench(names or (), rounds, json_file)):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(file_okay=False, help="Where everything goes.")] = Path("runs/demo"),
    seed: Seed = 0,
) -> None:
    """Train a tiny model here, and report what it learnt."""
    typer.echo("loading torch")  # seconds, on a cold disk: do not leave the terminal silent
    from diffpo.cli.demo import run_demo

    run_demo(out, seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 our mistake, 2 the user's, 130 interrupted."""
    command = next((word for word in arguments or sys.argv[1:] if not word.startswith("-")), "")
    try:
        if command not in SHARED:
            require_single_process(f"diffpo {command}".strip())
        app(arguments, prog_name="diffpo")
    except UserError as error:
        _end(f"diffpo: {error}", 2)
    except Stopped as stopped:
        if current_process().is_main:
            print(f"diffpo: {stopped}", file=sys.stderr)
        sys.exit(130)
    except NonFiniteLossError as error:
        _end(f"diffpo: training stopped: {error}; the last checkpoint is as it was", 1)
    except PeerFailedError as error:
        time.sleep(PATIENCE)  # time for the other to say why; then torchrun ends this one
        sys.exit(f"diffpo: {error}")


def _end(message: str, code: int) -> NoReturn:
    """Say it once: where all processes fail alike the first says so and ends, upon which torchrun ends the others."""
    if not current_process().is_main:
        time.sleep(PATIENCE)
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)
