"""Finished completions, token by token with the denoiser call that committed each; Sudokus as grids."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from diffpo.report.data import Arm, PlaybackCompletion
from diffpo.report.visible import TIMES, visible, visible_characters

BOX_ROWS = {4: 2, 6: 2, 9: 3}
"""Size of a Sudoku -> rows of its boxes, which have size / rows columns."""
MOST_TOKENS = 1024
"""Of a completion on the page."""
NOT_ABOVE = "(not the rule above)"
_GRID = re.compile(r"[0-9A-Za-z.]*")


@dataclass(frozen=True)
class Cell:
    """One token. `call`, counted from 1, committed it; `given` is what the prompt has in a clue's place."""

    text: Markup
    call: int
    classes: str
    given: str = ""
    description: str = ""


@dataclass(frozen=True)
class Board:
    """One completion: cells in `columns`, or without columns running text."""

    arm: str
    columns: int | None
    cells: tuple[Cell, ...]
    nfe: int
    is_solved: bool
    verdict: str
    label: str
    """What the completion is, for readers who cannot see it."""
    how: str
    """The rule, or the bound that a learned sampler chose."""
    left_out: int = 0
    """Tokens beyond `MOST_TOKENS`."""


@dataclass(frozen=True)
class Play:
    """One prompt with the completion of every arm that answered it, None for an arm that did not."""

    title: str
    prompt: Markup
    boards: tuple[Board | None, ...]
    is_grid: bool
    has_difficulty: bool
    """Whether the record says how difficult the prompt is."""
    answers: tuple[Markup, ...] = ()
    """The right answer, of a text; several where records differ, and none where they have none."""


@dataclass(frozen=True)
class Player:
    """All that one button plays."""

    arms: tuple[str, ...]
    """The names, in the order of each play's boards."""
    rules: Mapping[str, str]
    """By arm, what decoded its completions."""
    grids: tuple[Play, ...]
    texts: tuple[Play, ...]
    calls: int
    has_other_rules: bool
    """Whether an arm was decoded by another rule than its figures are of."""
    shades: Mapping[int, float]
    """By call, its place from the first (0) to the last (1), on a logarithmic scale like that of the frontier."""

    @property
    def ramp(self) -> list[int]:
        """The calls that explain the colours: powers of two, and the last."""
        last = max(self.shades, default=1)
        return [call for call in self.shades if call.bit_count() == 1 or call == last]

    @property
    def choice(self) -> str:
        """Which prompts these are, as the beginning of a sentence; records of before are of the first few."""
        plays = self.grids or self.texts
        what = "puzzle" if self.grids else "prompt"
        difficulties = {play.title for play in plays if play.has_difficulty}
        if len(difficulties) < max(len(plays), 2):
            return f"The first {what}s of the evaluation"
        told = f"The first {what} of each of {len(plays)} difficulties of the evaluation"
        return told if self.grids else f"{told} (as the column {self.column} of the data names them)"

    @property
    def column(self) -> str:
        """The column of the data that says how difficult a prompt is, by the first word of what it says."""
        words = {play.title.partition(" ")[0] for play in self.texts if play.has_difficulty}
        return words.pop() if len(words) == 1 and words <= {"level", "difficulty"} else "level or difficulty"

    def solved(self, lane: int, plays: Sequence[Play]) -> str:
        """Return how many of an arm's completions of some prompts are solved at the end."""
        boards = [board for play in plays if (board := play.boards[lane])]
        return f"{sum(board.is_solved for board in boards)} of {len(boards)}"

    def shows_bounds(self, arm: str) -> bool:
        """Return whether the bounds of an arm's completions differ, so that each says its own."""
        boards = [board for play in (*self.grids, *self.texts) for board in play.boards if board and board.arm == arm]
        return len({board.how for board in boards}) > 1


def player(arms: Sequence[Arm], rules: Mapping[str, str]) -> Player | None:
    """Return what is to be played, None where no completion is known.

    `rules` are those of the figures, by arm: what was decoded by another rule is said to be. Prompts with completions
    of most arms come first, otherwise in the order of the files.
    """
    shown = [arm for arm in arms if arm.playback]
    if not shown:
        return None
    by_prompt: dict[str, dict[str, PlaybackCompletion]] = {}
    for arm in shown:
        for completion in arm.playback:
            by_prompt.setdefault(completion.prompt, {})[arm.name] = completion
    ordered = sorted(by_prompt.items(), key=lambda item: -len(item[1]))
    plays = [_play(i, prompt, found, shown) for i, (prompt, found) in enumerate(ordered, start=1)]
    decoded_by = {arm.name: _decoded_by(arm, rules.get(arm.name)) for arm in shown}
    used = {cell.call for play in plays for board in play.boards if board for cell in board.cells}
    calls = max([board.nfe for play in plays for board in play.boards if board] + [*used, 1])
    return Player(
        tuple(arm.name for arm in shown),
        decoded_by,
        tuple(play for play in plays if play.is_grid),
        tuple(play for play in plays if not play.is_grid),
        calls,
        any(NOT_ABOVE in words for words in decoded_by.values()),
        {call: round(math.log(call) / math.log(max(calls, 2)), 3) for call in sorted(used)},
    )


def _decoded_by(arm: Arm, rule: str | None) -> str:
    """Return what decoded an arm's completions, in words."""
    rules = {completion.rule for completion in arm.playback}
    if rules == {"learned"}:
        return "its learned sampler"
    if None not in rules:
        words = ", ".join(sorted(str(found) for found in rules))
        return words if rules == {rule} else f"{words} {NOT_ABOVE}"
    bounds = {completion.entropy_bound for completion in arm.playback}
    if len(bounds) == 1 and None not in bounds:
        words = f"entropy bound {bounds.pop():.3g}"
        return words if words == rule else f"{words} {NOT_ABOVE}"
    return "its learned sampler" if arm.learned else "a rule that the record does not name"


def _play(number: int, prompt: str, found: Mapping[str, PlaybackCompletion], arms: Sequence[Arm]) -> Play:
    is_grid = all(map(is_sudoku, found.values()))
    first = next(iter(found.values()))
    clues = f"{first.clues} clues" if first.clues is not None else None
    boards = tuple(_board(arm, found[arm.name], is_grid) if arm.name in found else None for arm in arms)
    title = first.difficulty or clues or f"prompt {number}"
    answers = () if is_grid else dict.fromkeys(completion.answer for completion in found.values() if completion.answer)
    return Play(title, visible(prompt), boards, is_grid, first.difficulty is not None, tuple(map(visible, answers)))


def is_sudoku(found: PlaybackCompletion) -> bool:
    """Return whether prompt and completion are grids, cell by cell."""
    length = len(found.unmask_step)
    size = math.isqrt(length)
    is_square = found.clues is not None and size in BOX_ROWS and length == size**2
    return is_square and _GRID.fullmatch(found.prompt[:length]) is not None


def tokens_of(found: PlaybackCompletion) -> tuple[str, ...]:
    """Return the text of each token: as recorded, else a character each, else all text as that of the last token.

    Records of before say nothing of tokens; where those are characters, there are as many.
    """
    length = len(found.unmask_step)
    if len(found.tokens) == length:
        return found.tokens
    if len(found.completion) == length:
        return tuple(found.completion)
    return (*("",) * (length - 1), found.completion) if length else ()


def _board(arm: Arm, found: PlaybackCompletion, is_grid: bool) -> Board:
    tokens = tokens_of(found)
    size = math.isqrt(len(tokens))
    cells = [_cell(found, tokens, i, size) for i in range(len(tokens))] if is_grid else _text(found, tokens)
    wrong = sum("wrong" in cell.classes for cell in cells)
    verdict = _verdict(found, wrong if is_grid else None)
    calls = f"{found.nfe} {'call' if found.nfe == 1 else 'calls'}"
    lines = ["".join(tokens[i : i + size]) for i in range(0, len(tokens), size)] if is_grid else []
    return Board(
        arm.name,
        size if is_grid else None,
        tuple(cells),
        found.nfe,
        found.is_solved,
        verdict,
        visible_characters(f"{arm.name}, {verdict} in {calls}: {' '.join(lines)}"),
        "" if found.entropy_bound is None else f"bound {found.entropy_bound:.3g}",
        max(len(tokens) - MOST_TOKENS, 0) if not is_grid else 0,
    )


def _verdict(found: PlaybackCompletion, wrong: int | None) -> str:
    """Return how a completion came out; of a grid with the number of cells that are wrong.

    Without a right answer it is what the reward called solved.
    """
    if wrong is not None or not found.answer:
        return "solved" if found.is_solved else "not solved" if wrong is None else f"{wrong} wrong"
    return "right" if found.is_solved else "wrong"


def _cell(found: PlaybackCompletion, tokens: Sequence[str], i: int, size: int) -> Cell:
    """Return a cell of a Sudoku. The prompt has its clues row by row, so its characters are where the cells are."""
    expected, given = found.answer[i : i + 1], found.prompt[i : i + 1]
    is_clue = given in [*"123456789"]
    # Of a grid that is solved no cell is wrong, whatever the listed answer is.
    is_wrong = not found.is_solved and tokens[i] != expected
    classes = [*_borders(i, size), *["clue"] * is_clue, *["wrong"] * is_wrong, *["long"] * (len(tokens[i]) != 1)]
    call = found.unmask_step[i] + 1
    logp = f", log-probability {found.logp[i]:.2f}" if i < len(found.logp) else ""
    description = f"call {call}{logp}" + ", a clue" * is_clue + f", should be {expected}" * is_wrong
    return Cell(visible(tokens[i]), call, " ".join(classes), given if is_clue else "", description)


def _borders(i: int, size: int) -> list[str]:
    """Return the CSS classes for the edges of cell `i` at which a box ends inside the grid."""
    rows = BOX_ROWS[size]
    (row, column), columns = divmod(i, size), size // rows
    is_right, is_below = (column + 1) % columns == 0, (row + 1) % rows == 0
    return ["box-right"] * (is_right and column + 1 < size) + ["box-below"] * (is_below and row + 1 < size)


def _text(found: PlaybackCompletion, tokens: Sequence[str]) -> list[Cell]:
    """Return the tokens of a text. Of special tokens that are equal and of one call, the first stands for all.

    The first token of those of one call has the class `first`: it alone shows the number of the call.
    """
    special = set(found.special)
    rows = [(found.unmask_step[i] + 1, tokens[i], i if i not in special else -1) for i in range(len(tokens))]
    cells, before = [], 0
    for (call, text, index), group in groupby(rows[:MOST_TOKENS]):
        count = sum(1 for _ in group)
        word = visible(text) + (f" {TIMES}{count}" if count > 1 else "")
        classes = ["special"] * (index < 0) + ["first"] * (call != before)
        cells.append(Cell(word, call, " ".join(classes)))
        before = call
    return cells
