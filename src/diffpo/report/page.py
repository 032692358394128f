"""Put the page together and write it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from diffpo.core.content_security import content_hash
from diffpo.core.files import check_writable, explain_write_errors, write_whole
from diffpo.core.printable import printable
from diffpo.report import charts, playback, sentences, table
from diffpo.report.agreement import agreement, aup_sentence
from diffpo.report.compared import frontier_sentences
from diffpo.report.data import Arm, ReportedRun
from diffpo.report.frontier_figure import frontier_svg
from diffpo.report.headline import comparison, headline
from diffpo.report.learned import gain_sentences, price_sentences
from diffpo.report.palette import style_sheet
from diffpo.report.prompt_view import prompt_view
from diffpo.report.svg import sample_svg
from diffpo.report.training_logs import RL, SFT, TrainingLog, with_log

HERE = Path(__file__).parent
NARROW, WIDE = (380, 400), (760, 440)
MOST_RIVALS = 4
"""Of the arms that the main one is compared with, the paragraph beside the frontier tells of so many."""


@dataclass(frozen=True)
class Curve:
    """A training curve, and what it means in one sentence."""

    svg: Markup
    meaning: str


@dataclass(frozen=True)
class ArmTable:
    """The rows of one arm in the table of all figures, and the figures of its whole frontier."""

    arm: str
    frontier: tuple[tuple[str, str], ...]
    header: tuple[str, ...]
    rows: tuple[table.Row, ...]


def write_page(run: ReportedRun, out_file: Path) -> Path:
    """Write the page of a report to `out_file` and return that path.

    The page needs no network, and is a pure function of the files that were read. Raises UserError where it cannot be
    written.
    """
    check_writable(out_file, begins=b"<!doctype html")
    html = printable(render(run))  # a name turns no line round, and half a character ends nothing
    with explain_write_errors(out_file):
        write_whole(out_file, html)
    return out_file


def render(run: ReportedRun) -> str:
    """Return the page as HTML."""
    evaluated = [arm for arm in run.arms if arm.is_evaluated]
    rl, sft = (with_log(run.arms, kind) for kind in (RL, SFT))
    found = comparison(run.arms, run.compared, run.main)
    # Beside the frontier stands what the headline rests on, of a few arms; where that leaves some out, all of it below.
    basis, whole = (
        sentences.basis(run.arms, run.compared, found.main, most) if found else None for most in (MOST_RIVALS, None)
    )
    script = _text("playback.js")
    return _template().render(
        css=Markup(style_sheet()) + _text("style.css") + _text("playback.css"),
        script=script,
        script_hash=content_hash(f"\n{script}\n"),
        run=run,
        facts=_facts(run),
        headline=_unbroken(headline(run.arms, run.compared, run.main)),
        main=found.main if found else None,
        basis=basis,
        agreement=agreement(run.arms, found),
        aup_sentence=aup_sentence(evaluated),
        figures=sentences.figures(run.arms),
        has_learned=any(arm.learned for arm in evaluated),
        has_prices=any(arm.price_curve for arm in evaluated),
        frontiers=[
            (name, Markup(frontier_svg(evaluated, *size))) for name, size in (("wide", WIDE), ("narrow", NARROW))
        ]
        if evaluated
        else [],
        gains=[
            *([whole] if whole and whole != basis and not run.compared else []),
            *(sentence for arm in evaluated for sentence in gain_sentences(arm)),
            *(sentence for arm in evaluated for sentence in price_sentences(arm)),
            *(frontier_sentences(run.main, run.compared, _num_seeds(run)) if run.main else []),
            *filter(None, [sentences.frontier_sentence(run.arms)]),
        ],
        tables=_tables(run.arms),
        prompt_views=[view for arm in evaluated if (view := prompt_view(arm))],
        curves=_curves(rl, RL),
        rl_keys=charts.training_keys(rl),
        sft_curves=_curves(sft, SFT),
        sft_keys=charts.training_keys(sft),
        player=playback.player(run.arms, sentences.rules(run.arms)),
        style_of=charts.styles_of(run.arms),
        sample=lambda key: Markup(sample_svg(key)),
    )


@lru_cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html.j2")


def _num_seeds(run: ReportedRun) -> int:
    """Return with how many seeds the arms that are compared by whole frontiers were trained."""
    return max((len(arm.seeds) for arm in run.arms if arm.name == run.main), default=1)


def _unbroken(sentence: str) -> str:
    """Return the sentence with its numbers and their units on one line."""
    return re.sub(r"(?<=[\d.]) (?=%|calls?\b)", "\N{NO-BREAK SPACE}", sentence)


def _facts(run: ReportedRun) -> list[tuple[str, str]]:
    n = {point.n for arm in run.arms for point in arm.points}
    facts = [
        ("task", run.task),
        ("problems", f"{max(n)} ({run.split} split)" if n and run.split else str(max(n)) if n else None),
        ("tokens per completion", run.completion_length),
        ("seed", run.seed),
        ("wall time of the whole demo", _duration(run.wall_s) if run.wall_s is not None else None),
    ]
    spent = {arm.name: arm.train_denoiser_calls for arm in run.arms if arm.train_denoiser_calls}
    if spent:
        facts.append(("denoiser calls to train", ", ".join(f"{name} {calls:,}" for name, calls in spent.items())))
    return [(name, str(value)) for name, value in facts if value is not None]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _tables(arms: Sequence[Arm]) -> list[ArmTable]:
    """Return the table of all figures, by arm: those of a whole frontier stand once beside the arm's name."""
    found: list[ArmTable] = []
    of_name = {arm.name: arm for arm in arms}
    of_rule = [i for i, name in enumerate(table.HEADER) if name not in ("arm", "area", "AUP")]
    of_frontier = [i for i, name in enumerate(table.HEADER) if name in ("area", "AUP")]
    for row in table.table_rows([arm for arm in arms if arm.is_evaluated]):
        cells = tuple(row.cells[i] for i in of_rule)
        kept = replace(row, cells=cells)
        if row.is_first:
            arm = of_name[row.arm]
            named = {name: name for name in table.HEADER}
            if arm.aup_best is not None:
                named["AUP"] = f"AUP, relative to {table.percent(arm.aup_best)} %,"
            frontier = tuple(
                (named[table.HEADER[i]], row.cells[i]) for i in of_frontier if row.cells[i] != table.ABSENT
            )
            if curve := arm.price_curve:
                named["area"] = "area of its fixed rules"
                of_sampler = ("area of its sampler, which is compared,", table.estimate_text(curve.area, 3))
                frontier = (of_sampler, *((named.get(name, name), value) for name, value in frontier))
            header = tuple(table.HEADER[i] for i in of_rule)
            found.append(ArmTable(row.arm, frontier, header, (kept,)))
        else:
            found[-1] = replace(found[-1], rows=(*found[-1].rows, kept))
    return found


def _curves(arms: Sequence[Arm], kind: TrainingLog) -> list[Curve]:
    found = ((y, charts.training_svg(arms, kind.x, kind.x_label, y, y_label)) for y, y_label in kind.curves.items())
    return [Curve(Markup(svg), kind.meanings[y]) for y, svg in found if svg]


def _text(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))
