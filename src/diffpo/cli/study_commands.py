"""`diffpo study` and `diffpo bench`: many runs compared with each other, and the code with plain references."""

from pathlib import Path
from typing import Annotated

import typer

from diffpo.cli.next_step import say_next
from diffpo.cli.options import Overrides
from diffpo.core.errors import UserError
from diffpo.core.output import show
from diffpo.distributed.process import current_process, require_single_process


def study(  # twelve arguments: every option of a command is one
    out: Annotated[Path, typer.Option("--out", help="Where the results go: results/NAME.", file_okay=False)],
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a built-in study.")
    ] = None,
    overrides: Overrides = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time, each in a process of one thread (under torchrun: in each rank).")
    ] = 1,
    arms: Annotated[str | None, typer.Option(help="Some of the arms: a,b. [default: all]")] = None,
    tasks: Annotated[str | None, typer.Option(help="Some of the tasks. [default: all]")] = None,
    seeds: Annotated[str | None, typer.Option(help="Some of the seeds. [default: all]")] = None,
    work: Annotated[
        Path | None, typer.Option(file_okay=False, help="For bases and runs. [default: runs/study-NAME]")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Compare all arms with these: a,b. [default: none]")] = None,
    tune_only: Annotated[bool, typer.Option("--tune-only", help="Only choose what a study that tunes tries.")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave broken result lines out.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Only write table and figures, from the results.")
    ] = False,
) -> None:
    """Run what a study of arms, tasks and seeds still lacks; report it.

    \b
    Examples:
      diffpo study study-arms --out results/arms --jobs 2
      diffpo study --report-only --out results/arms --against d1,diffpo
    """
    references = () if against is None else tuple(against.split(","))
    if report_only:
        require_single_process("a report of what is there")
        from diffpo.study.report import write_study_report

        written = write_study_report(out, skip_broken, references)
        show("\n".join(f"wrote {path}" for path in written))
        _say_next_report(out)
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
    run_study(loaded, out, work, jobs, Selection(*names), skip_broken, references, tune_only)
    if current_process().is_main:
        show(f"results and table: {out}")
    if tune_only:
        chosen = [part for name, given in (("--arms", arms), ("--tasks", tasks)) if given for part in (name, given)]
        say_next("study", recipe, *(overrides or ()), "--out", str(out), "--work", str(work), *chosen)
    else:
        _say_next_report(out)


def _say_next_report(out: Path) -> None:
    """Say how the results, if there are any, are shown as a page, figures and tables."""
    from diffpo.study.results import RUNS, read_results

    if read_results(out / RUNS, skip_broken=True):
        say_next("report", str(out), "--figures", str(out / "figures"))


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAMES", help="Benchmarks, or what their names begin with. [all]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Timed rounds; 0 counts and compares results only.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Where the records go.")] = None,
    is_list: Annotated[bool, typer.Option("--list", help="Name the benchmarks and stop.")] = False,
) -> None:
    """Measure rollouts and updates against plain references.

    And how far they are from what the machine can do.

    \b
    Examples:
      diffpo bench --list
      diffpo bench rollout --rounds 3
    """
    from diffpo.bench.run import BENCHES, listing, run_bench

    if is_list:
        show(listing())
        say_next("bench", BENCHES[0].name)
        return
    if any(measurement.difference for measurement in run_bench(names or (), rounds, json_file)):
        raise typer.Exit(1)
    if json_file is None:
        say_next("bench", *(names or ()), "--rounds", str(rounds or 5), "--json", "bench.json")
    else:
        say_next("bench", "--list")
