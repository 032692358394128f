"""Put the page together and write it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from diffpo.core.files import check_writable, explain_write_errors, write_whole
from diffpo.core.printable import printable
from diffpo.report import charts, playback, sentences, table
from diffpo.report.compared import frontier_sentences
from diffpo.report.data import ARMS, Arm, ReportedRun, read_run
from diffpo.report.learned import gain_sentences, price_sentences
from diffpo.report.metrics import RL_CURVES, SFT_CURVES

HERE = Path(__file__).parent
NARROW, WIDE = (380, 400), (760, 440)
MISSED = ARMS[:3]
"""A run that has one of these arms is said to lack the others."""


@dataclass(frozen=True)
class ClueRow:
    """Figures of the learned sampler on the problems with this many clues."""

    clues: int
    n: int
    bound: str
    accuracy: str
    nfe: str


def write_report(run_dir: Path, out_file: Path | None = None) -> Path:
    """Write the report of `run_dir` to `out_file` (default: `report.html` in it) and return that path.

    The page needs no network, and is a pure function of the run's files. Raises UserError where there is nothing to
    report, where a file is broken, and where `out_file` cannot be written.
    """
    out_file = out_file or run_dir / "report.html"
    check_writable(out_file, begins=b"<!doctype html")
    html = printable(render(read_run(run_dir)))  # a name turns no line round, and half a character ends nothing
    with explain_write_errors(out_file):
        write_whole(out_file, html)
    return out_file


def render(run: ReportedRun) -> str:
    """Return the page as HTML."""
    evaluated = [arm for arm in run.arms if arm.is_evaluated]
    learned = next((arm for arm in evaluated if arm.learned), None)
    fixed = charts.nearest_fixed(learned) if learned else None
    rl, sft = _by_training(run.arms)
    known = {arm.name for arm in run.arms}
    return _template().render(
        css=_text("chart.css") + _text("style.css"),
        script=_text("playback.js"),
        run=run,
        facts=_facts(run),
        absent=[table.display(name) for name in MISSED if name not in known and known & {*MISSED}],
        headline=sentences.headline(run.arms, run.compared),
        figures=sentences.figures(run.arms),
        frontiers=[
            (name, Markup(charts.frontier_svg(evaluated, *size))) for name, size in (("wide", WIDE), ("narrow", NARROW))
        ]
        if evaluated
        else [],
        gains=[
            *(gain_sentences(learned) if learned else []),
            *(sentence for arm in evaluated for sentence in price_sentences(arm)),
            *frontier_sentences(run.compared),
            *filter(None, [sentences.frontier_sentence(run.arms)]),
        ],
        header=table.HEADER,
        rows=table.table_rows(run.arms),
        clue_charts=[Markup(svg) for svg in charts.clue_charts(learned)] if learned else [],
        clue_rows=_clue_rows(learned) if learned else [],
        learned_style=charts.style_of(learned.name) if learned else None,
        learned_name=table.display(learned.name) if learned else None,
        fixed_rule=fixed.rule if fixed else None,
        curves=_curves(rl, "denoiser_calls", "denoiser calls spent in training", RL_CURVES),
        rl_arms=rl,
        sft_curves=_curves(sft, "step", "optimiser step", SFT_CURVES),
        sft_arms=sft,
        plays=playback.plays(run.arms),
        has_grids=any(completion.clues is not None for arm in run.arms for completion in arm.playback),
        style_of=charts.style_of,
        display=table.display,
    )


@lru_cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html.j2")


def _facts(run: ReportedRun) -> list[tuple[str, str]]:
    n = {point.n for arm in run.arms for point in arm.points}
    facts = [
        ("task", run.task),
        ("problems", f"{max(n)} ({run.split} split)" if n and run.split else str(max(n)) if n else None),
        ("tokens per completion", run.completion_length),
        ("seed", run.seed),
        ("wall time", _duration(run.wall_s) if run.wall_s is not None else None),
    ]
    facts += [
        (f"denoiser calls to train {table.display(arm.name)}", f"{arm.train_denoiser_calls:,}")
        for arm in run.arms
        if arm.train_denoiser_calls is not None
    ]
    return [(name, str(value)) for name, value in facts if value is not None]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _clue_rows(arm: Arm) -> list[ClueRow]:
    if not arm.learned:
        return []
    bounds = charts.by_clues(arm.clues, arm.learned.bounds)
    solved = charts.by_clues(arm.clues, arm.learned.point.solved)
    calls = charts.by_clues(arm.clues, arm.learned.point.nfe_rows)
    return [
        ClueRow(
            clues,
            arm.clues.count(clues),
            f"{bounds[clues]:.3g}" if clues in bounds else table.ABSENT,
            table.percent(solved[clues]),
            f"{calls[clues]:.2f}" if clues in calls else table.ABSENT,
        )
        for clues in solved
    ]


def _curves(arms: Sequence[Arm], x: str, x_label: str, fields: Mapping[str, str]) -> list[Markup]:
    found = (charts.training_svg(arms, x, x_label, y, y_label) for y, y_label in fields.items())
    return [Markup(svg) for svg in found if svg]


def _by_training(arms: Sequence[Arm]) -> tuple[list[Arm], list[Arm]]:
    """Return the arms with the log lines of RL, and with those of SFT; only those of RL count denoiser calls.

    A single line, as a sampler's fit writes it, is no curve.
    """
    rl = [replace(arm, metrics=tuple(row for row in arm.metrics if "denoiser_calls" in row)) for arm in arms]
    sft = [replace(arm, metrics=tuple(row for row in arm.metrics if "denoiser_calls" not in row)) for arm in arms]
    return [arm for arm in rl if len(arm.metrics) > 1], [arm for arm in sft if len(arm.metrics) > 1]


def _text(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))
