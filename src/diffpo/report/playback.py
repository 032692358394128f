"""Finished completions as cells with the denoiser call that committed them; Sudokus as grids."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffpo.report.data import Arm, PlaybackCompletion
from diffpo.report.table import display

BOX_ROWS = {4: 2, 6: 2, 9: 3}
"""Size of a Sudoku -> rows of its boxes, which have size / rows columns."""


@dataclass(frozen=True)
class Cell:
    """One token of the completion. `call`, counted from 1, committed it; `shade` is how late that was, from 0 to 1."""

    character: str
    call: int
    shade: float
    classes: str
    description: str


@dataclass(frozen=True)
class Grid:
    """One completion as cells in rows."""

    arm: str
    name: str
    columns: int
    cells: tuple[Cell, ...]
    nfe: int
    verdict: str
    bound: str | None


@dataclass(frozen=True)
class Play:
    """One prompt with the completion of every arm."""

    prompt: str
    calls: int
    grids: tuple[Grid, ...]


def plays(arms: Sequence[Arm]) -> list[Play]:
    """Return a play for each prompt, those with completions of most arms first, otherwise in the order of the files."""
    played: dict[str, list[tuple[str, PlaybackCompletion]]] = {}
    for arm in arms:
        for completion in arm.playback:
            played.setdefault(completion.prompt, []).append((arm.name, completion))
    ordered = sorted(played.items(), key=lambda item: -len(item[1]))
    return [
        Play(prompt, max(c.nfe for _, c in answers), tuple(_grid(arm, c) for arm, c in answers))
        for prompt, answers in ordered
    ]


def _grid(arm: str, found: PlaybackCompletion) -> Grid:
    length = len(found.unmask_step)
    size = math.isqrt(length)
    is_sudoku = found.clues is not None and size in BOX_ROWS and length == size**2
    columns = size if is_sudoku else min(length, 16)
    cells = tuple(_cell(found, i, _borders(i, size) if is_sudoku else [], is_sudoku) for i in range(length))
    wrong = f"{sum('wrong' in cell.classes for cell in cells)} wrong" if is_sudoku else "not solved"
    verdict = "solved" if found.is_solved else wrong
    bound = None if found.entropy_bound is None else f"{found.entropy_bound:.3g}"
    return Grid(arm, display(arm), columns, cells, found.nfe, verdict, bound)


def _borders(i: int, size: int) -> list[str]:
    """Return the CSS classes for the edges of cell `i` at which a box ends inside the grid."""
    rows = BOX_ROWS[size]
    (row, column), columns = divmod(i, size), size // rows
    is_right, is_below = (column + 1) % columns == 0, (row + 1) % rows == 0
    return ["box-right"] * (is_right and column + 1 < size) + ["box-below"] * (is_below and row + 1 < size)


def _cell(found: PlaybackCompletion, i: int, borders: list[str], is_sudoku: bool) -> Cell:
    character = found.completion[i] if i < len(found.completion) else ""
    expected = found.answer[i] if i < len(found.answer) else ""
    call = found.unmask_step[i] + 1
    # The prompt of a grid is its clues row by row, so its characters have the positions of the completion's.
    is_clue = is_sudoku and found.prompt[i : i + 1] in [*"123456789"]
    # Other tasks have many right answers, and another than the listed one is not wrong.
    is_wrong = is_sudoku and not found.is_solved and character != expected
    classes = borders + ["clue"] * is_clue + ["wrong"] * is_wrong
    logp = f", log-probability {found.logp[i]:.2f}" if i < len(found.logp) else ""
    description = (
        f"call {call}{logp}" + (", a clue" if is_clue else "") + (f", should be {expected}" if is_wrong else "")
    )
    shade = (call - 1) / max(found.nfe - 1, 1)
    return Cell(character, call, round(min(max(shade, 0.0), 1.0), 2), " ".join(classes), description)
