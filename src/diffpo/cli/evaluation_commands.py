"""`diffpo eval`, `diffpo score` and `diffpo report`: measure a model, score its recorded answers, show a run's
files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from diffpo.cli.next_step import say_next
from diffpo.cli.options import Model, Overrides
from diffpo.core.errors import UserError
from diffpo.core.output import show, warn
from diffpo.distributed.process import current_process


def evaluate(
    model: Model,
    overrides: Overrides = None,
    recipe: Annotated[
        str | None, typer.Option(help="A TOML file or a built-in name; without it, the defaults.")
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(help="What one call per token costs in accuracy: the model's sampler decodes for it."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Where to write the JSON record. [default: MODEL/eval.json, or eval-NAME.json here]",
        ),
    ] = None,
) -> None:
    """Measure accuracy and denoiser calls on unseen problems.

    \b
    Examples:
      diffpo eval runs/rl
      diffpo eval runs/rl count=100 'bounds=[0.0, 0.1]' --out quick.json
    """
    from diffpo.core.price import check_price
    from diffpo.models.hub import short_name
    from diffpo.recipes import load_recipe
    from diffpo.recipes.stored import evaluated_task, over_stored_task
    from diffpo.recipes.tables import EvalRecipe

    given = [f"model={json.dumps(model)}"]
    if price is not None:
        check_price(price)
        given.append(f"price={price}")
    loaded = load_recipe(EvalRecipe, recipe, [*over_stored_task(model, recipe, overrides or ()), *given])
    evaluated_task(loaded)  # a task that cannot be had is refused before torch is imported
    from diffpo.evaluation.run import run_eval

    default = Path(model) / "eval.json" if Path(model).is_dir() else Path(f"eval-{short_name(model)}.json")
    told = run_eval(loaded, out or default)
    if current_process().is_main:
        show(told)
    if Path(model, "metrics.jsonl").is_file():
        say_next("report", model)


def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False)],
    task: Annotated[str, typer.Option(help="gsm8k, math500, countdown-d1 or sudoku-d1.")],
    rows: Annotated[bool, typer.Option("--rows", help="Also list the rows on which the scorers differ.")] = False,
) -> None:
    """Score recorded generations as d1 does, and by our own graders.

    \b
    Example:
      diffpo score answers.jsonl --task gsm8k --rows
    """
    from diffpo.evaluation.recorded import differences, score_file, summary

    scored = score_file(file, task)
    show(summary(scored))
    if rows:
        show(differences(scored))
    else:
        say_next("score", str(file), "--task", task, "--rows")


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Runs, folders of runs, records of diffpo eval, studies, demos; mixed."),
    ],
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="[default: report.html in the first PATH, NAME.html of a file]")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(file_okay=False, help="A folder for all figures (SVG, PDF) and tables (CSV).")
    ] = None,
) -> None:
    """Write one HTML file about runs, evaluations and studies.

    \b
    Examples:
      diffpo report runs/rl
      diffpo report runs/base runs/rl eval-LLaDA-8B.json --out both.html
      diffpo report runs/rl --figures figures
    """
    from diffpo.report.found import results_file
    from diffpo.report.write import write_reports
    from diffpo.study.csv_tables import is_of_likelihoods, write_study_files

    studies = {path: found for path in paths if figures and (found := results_file(path))}
    with_page = [path for path in paths if path not in studies or not is_of_likelihoods(studies[path])]
    if out and not with_page:
        raise UserError(f"{paths[0]}: no arms to report, so that there is no page for {out}; leave --out out")
    written = write_reports(with_page, out, figures) if with_page else []
    of_figures = [path for path in written if figures and path.parent == figures and path.suffix != ".html"]
    pages = [path for path in written if path not in of_figures]
    for page in pages:
        show(f"wrote {page}")
    if figures is None:
        place = ("--out", str(out)) if out else ()
        say_next("report", *map(str, paths), *place, "--figures", str(Path(pages[0]).parent / "figures"))
    else:
        from diffpo.report.export import NO_PDF, can_write_pdf

        of_figures += write_study_files(list(studies.values()), figures) if studies else []
        show(f"wrote {len(of_figures)} files of figures and tables to {figures}")
        if not can_write_pdf():
            warn(f"diffpo: {NO_PDF}")
