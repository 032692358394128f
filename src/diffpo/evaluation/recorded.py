"""Score recorded generations twice: exactly as d1's script does, and by the tasks' own graders."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from diffpo.core.errors import UserError
from diffpo.core.suggestion import suggestion
from diffpo.grading import d1
from diffpo.grading.answer import final_answer
from diffpo.tasks.base import Grade, Problem
from diffpo.tasks.datasets import Row, read_rows
from diffpo.tasks.families import TASK_FAMILIES

Kind = Literal["gsm8k", "math500", "countdown-d1", "sudoku-d1"]

_MOST_CHARACTERS = 70  # of an answer in a listing


@dataclass(frozen=True)
class ScoredRow:
    """One row with both scores."""

    index: int
    """Counted from 0."""
    answer: str | None
    """The final answer that our graders find."""
    gold: str
    points: int
    """Points that d1 gives, of the `possible` ones."""
    possible: int
    """The empty cells of a Sudoku, otherwise 1."""
    grade: Grade
    """Our grade."""

    @property
    def verdict(self) -> str:
        """Our grade in words."""
        if self.grade.is_solved:
            return "right"
        if self.grade.status != "ok":
            return self.grade.status.replace("_", " ")
        return "clues overwritten" if self.grade.parts.get("clues_kept") == 0.0 else "wrong"

    @property
    def difference(self) -> str | None:
        """How the two scorers differ on this row; None if they agree. For us a Sudoku is solved or not."""
        if self.grade.is_solved == (self.points == self.possible) and (self.points == 0 or self.grade.is_solved):
            return None
        theirs = "right" if self.points == self.possible else "wrong" if self.points == 0 else "some cells"
        return f"d1: {theirs}, ours: {self.verdict}"


def score_file(path: Path, kind: str) -> list[ScoredRow]:
    """Score every row of a file: JSONL with `question`, `generation` and `ground_truth`, or the JSON of d1's eval.

    Raises UserError for an unknown kind, and for a row that lacks a field or is not of this kind.
    """
    if kind not in get_args(Kind):
        known = get_args(Kind)
        raise UserError(f"--task {kind}: unknown{suggestion(kind, known)}; give one of {', '.join(known)}")
    return [_score(kind, index, row) for index, row in enumerate(_read_recorded(path))]


def summary(rows: Sequence[ScoredRow]) -> str:
    """Return both scores as text, and how many rows they differ on, for each way in which they differ."""
    points, possible = sum(row.points for row in rows), sum(row.possible for row in rows)
    unit = "rows" if possible == len(rows) else "empty cells"
    solved = sum(row.grade.is_solved for row in rows)
    statuses = Counter(row.grade.status for row in rows)
    differences = Counter(row.difference for row in rows if row.difference)
    return "\n".join(
        [
            f"d1's scorer  {points:5d} / {possible} {unit} ({points / possible:.2%})",
            f"ours         {solved:5d} / {len(rows)} rows ({solved / len(rows):.2%}), "
            f"{statuses['unparseable']} unparseable, {statuses['grader_failed']} that the grader failed on",
            f"they differ on {differences.total()} rows",
            *(f"{count:5d}  {words}" for words, count in differences.most_common()),
        ]
    )


def differences(rows: Sequence[ScoredRow]) -> str:
    """Return a line for each row on which the scorers differ; rows are counted from 0."""
    return "\n".join(
        f"row {row.index}: {row.difference}; gold {row.gold!r}, final answer {row.answer!r:.{_MOST_CHARACTERS}}"
        for row in rows
        if row.difference
    )


def _read_recorded(path: Path) -> list[Row]:
    if path.suffix != ".json":
        return read_rows(str(path), "test")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    found = content.get("generations") if isinstance(content, dict) else None
    if not (isinstance(found, list) and found and all(isinstance(columns, dict) for columns in found)):
        raise UserError(f"{path}: should hold a list 'generations' of at least one object, as d1's eval writes it")
    return [Row(f"{path} row {number}", columns) for number, columns in enumerate(found, start=1)]


_TRUTHS = {
    "gsm8k": "a number",
    "math500": "a text",
    "countdown-d1": "three whole numbers and a target, [[1, 2, 3], 6]",
    "sudoku-d1": "16 digits from 1 to 4",
}


def _is_number(truth: int | float) -> bool:
    """Return whether a JSON value is a number, and one that a float can hold."""
    return not isinstance(truth, bool) and -1e300 < truth < 1e300


def _score(kind: str, index: int, row: Row) -> ScoredRow:
    generation = row.value("generation" if row.has("generation") else "generations")
    if not isinstance(generation, str):
        raise UserError(f"{row.location}: field 'generation' should be text, got {type(generation).__name__}")
    truth = row.value("ground_truth")
    points, possible = 0, 1
    facts: dict[str, int | float | str] = {}
    if kind == "gsm8k" and isinstance(truth, str) and re.fullmatch(r"-?[0-9]{1,300}(\.[0-9]{1,300})?", truth.strip()):
        truth = float(truth) if "." in truth else int(truth)  # as CSV has it
    wrong = UserError(f"{row.location}: field 'ground_truth' should be {_TRUTHS[kind]}, got {truth!r:.60}")
    match kind, truth:
        case "gsm8k", int() | float() | None if truth is None or _is_number(truth):
            # d1 wrote null where it could not parse a negative number; neither scorer can grade that.
            facts = {} if truth is None else {"gold": str(Fraction(str(truth)))}
            points = d1.gsm8k_is_right(generation, None if truth is None else float(truth))
        case "math500", str():
            facts = {"gold": truth}
            points = d1.math_is_right(generation, truth)
        case "countdown-d1", [[int(), int(), int()] as numbers, int() as target] if _is_number(target):
            facts = {"numbers": ",".join(map(str, numbers)), "target": target}
            points = d1.countdown_is_right(generation, numbers, target)
        case "sudoku-d1", str() if re.fullmatch(r"[1-4]{16}", truth):
            puzzle = re.search(r"[0-4]{16}", row.text("question"))
            if puzzle is None or "0" not in puzzle[0]:
                raise UserError(f"{row.location}: field 'question' has no puzzle of 16 digits with an empty cell, 0")
            facts = {"puzzle": puzzle[0], "solution": truth}
            points, possible = d1.sudoku_cells(generation, puzzle[0], truth)
        case _:
            raise wrong
    problem = Problem(row.location, "", "", row.location, facts)
    grade = TASK_FAMILIES[kind].grade(problem, generation)
    return ScoredRow(index, final_answer(generation), str(truth), int(points), possible, grade)
