"""What a learned sampler makes of each prompt: a sentence and, for puzzles with clues, charts and a table."""

from dataclasses import dataclass

from markupsafe import Markup

from diffpo.report import charts, table
from diffpo.report.data import Arm
from diffpo.report.learned import prompt_sentence
from diffpo.report.svg import Key


@dataclass(frozen=True)
class ClueRow:
    """Figures of the learned sampler on the problems with this many clues."""

    clues: int
    n: int
    bound: str
    accuracy: str
    nfe: str


@dataclass(frozen=True)
class PromptView:
    """What the page shows of one arm's learned sampler."""

    arm: str
    style: str
    sentence: str | None
    charts: tuple[Markup, ...]
    rows: tuple[ClueRow, ...]
    keys: tuple[Key, ...]
    """The legend of the charts."""


def prompt_view(arm: Arm) -> PromptView | None:
    """Return what an arm's learned sampler makes of prompts; None without one, or where its record does not tell."""
    sentence, drawn = prompt_sentence(arm), tuple(map(Markup, charts.clue_charts(arm).values()))
    if not sentence and not drawn:
        return None
    rows = _clue_rows(arm) if drawn else ()
    keys = charts.clue_keys(arm, " for all prompts, the nearest in calls")
    return PromptView(arm.name, charts.style_of(arm), sentence, drawn, rows, tuple(keys))


def _clue_rows(arm: Arm) -> tuple[ClueRow, ...]:
    if not arm.learned:
        return ()
    bounds = charts.by_clues(arm.clues, arm.learned.bounds)
    solved = charts.by_clues(arm.clues, arm.learned.point.solved)
    calls = charts.by_clues(arm.clues, arm.learned.point.nfe_rows)
    return tuple(
        ClueRow(
            clues,
            arm.clues.count(clues),
            f"{bounds[clues]:.3g}" if clues in bounds else table.ABSENT,
            table.percent(solved[clues]),
            f"{calls[clues]:.2f}" if clues in calls else table.ABSENT,
        )
        for clues in solved
    )
