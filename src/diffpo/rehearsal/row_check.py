"""`diffpo check`: the first rows of a task through template, tokenizer, grader and rewards, in seconds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from diffpo.core.errors import UserError
from diffpo.core.printable import printable
from diffpo.models.loading import load_denoiser
from diffpo.models.tokenizer import char_tokenizer, is_char_tokenizer
from diffpo.recipes.tables import RlRecipe, SftRecipe, SourceSettings, TextTaskRecipe, base_bits, is_graded
from diffpo.recipes.tasks import build_task, require_answers
from diffpo.rehearsal.data_check import Lengths, check_answers, check_prompts, measure, read_problems
from diffpo.rehearsal.findings import Findings
from diffpo.rehearsal.reward_check import EMPTY, GOLD, OTHER, Grades, judge_rewards, try_rewards, with_answers
from diffpo.rehearsal.stand_in import write_stand_in
from diffpo.rehearsal.template_check import check_template
from diffpo.tasks.base import Grade, Problem, Split, Task, characters_of
from diffpo.tasks.custom_reward import PART, WithReward
from diffpo.tasks.text import NoRowsError, TextTask

ROWS = 3
"""Rows that are graded and shown. All rows of the data are read."""
LONGEST = 200
"""Characters of a prompt or an answer that are shown."""
SHOWN: Mapping[str, str] = {GOLD: "its answer", EMPTY: "an empty text", OTHER: "another answer"}


def check_recipe(recipe: RlRecipe | SftRecipe) -> tuple[str, Findings]:
    """Return what was found on the first rows of a recipe's task, as text, and as findings. Nothing is trained."""
    findings = Findings()
    sections: list[str] = []
    try:
        task = build_task(recipe.task)
        problems = read_problems(task, "train")
    except UserError as error:
        findings.fault(str(error))
        return findings.verdict("a look at the data"), findings
    if isinstance(recipe.task, TextTaskRecipe):
        for column, template in recipe.task.unused_columns():
            findings.note(f"task.{column} counts for nothing, since task.{template} is set; leave one of them out")
    shown = problems[:ROWS]
    lengths = _lengths(recipe, task, problems, findings)
    grades: Grades = {}
    try:
        if isinstance(recipe, SftRecipe):
            require_answers(task)
        if is_graded(recipe.task):
            grades = try_rewards(task, shown)
            judge_rewards(task, shown, grades, findings)
        else:
            findings.note("nothing grades this task: its answers can be learned, and RL and evaluation are refused")
    except UserError as error:
        findings.fault(str(error))
    if counts := _rows_of_splits(task, findings):
        sections.append(f"# rows\n{counts}\n")
    for row, problem in enumerate(shown):
        sections.append(f"# {problem.id}\n{_row(problem, lengths, row, _grades_of(grades, shown, row))}\n")
    if findings.notes:
        sections.append("# notes\n" + "\n".join(f"- {note}" for note in findings.notes) + "\n")
    return "\n".join([*sections, findings.verdict(f"a look at {len(shown)} rows")]), findings


def _rows_of_splits(task: Task, findings: Findings) -> str:
    """Return how many rows each split has, of a task in words, in words. Add what is wrong with those of a split."""
    inner = task.task if isinstance(task, WithReward) else task
    if not isinstance(inner, TextTask):
        return ""
    counts = []
    for split in get_args(Split):
        try:
            counts.append(f"{len(inner.questions(split))} {split}")
        except NoRowsError as error:
            counts.append(f"none for {split}")
            findings.note(str(error))
        except UserError as error:
            findings.fault(f"the {split} rows cannot be read: {error}")
    return ", ".join(counts)


def _lengths(
    recipe: RlRecipe | SftRecipe, task: Task, problems: Sequence[Problem], findings: Findings
) -> Lengths | None:
    """Return the lengths of all problems, once it is added what has no room; None where they cannot be encoded."""
    settings, is_byte_level = recipe.task, False
    stop_ids: tuple[int, ...] = ()
    limit: int | None = None
    try:
        with TemporaryDirectory(prefix="check-") as folder:
            if recipe.base is None:
                tokenizer = char_tokenizer(characters_of(task))
            else:
                stand_in = write_stand_in(recipe.base, Path(folder) / "stand-in", base_bits(recipe) is not None)
                denoiser, tokenizer = load_denoiser(stand_in.folder)
                stop_ids, is_byte_level = tuple(denoiser.stop_ids), stand_in.is_byte_level
                limit = None if is_char_tokenizer(tokenizer) else stand_in.positions - task.completion_length
                if is_byte_level:
                    findings.note(f"the tokenizer of {recipe.base} is not here: tokens are counted as four bytes each")
        if not check_template(tokenizer, stop_ids, findings):
            return None
        lengths = measure(tokenizer, problems, is_byte_level)
    except UserError as error:
        findings.fault(str(error))
        return None
    if isinstance(settings, SourceSettings):
        own = settings.max_prompt_tokens
        check_prompts(lengths, limit if own is None else own, findings)
        is_learned = isinstance(recipe, SftRecipe)
        check_answers(lengths, settings.completion_length, "task.completion_length", is_learned, findings)
    return lengths


def _grades_of(grades: Grades, problems: Sequence[Problem], row: int) -> dict[str, Grade]:
    """Return the grades of one problem by the kind of text; those of answers are of the problems that have one."""
    known = with_answers(problems)
    found = {EMPTY: grades[EMPTY][row]} if EMPTY in grades else {}
    if problems[row] in known:
        index = known.index(problems[row])
        found |= {kind: grades[kind][index] for kind in (GOLD, OTHER) if kind in grades}
    return {kind: found[kind] for kind in SHOWN if kind in found}


def _row(problem: Problem, lengths: Lengths | None, row: int, grades: Mapping[str, Grade]) -> str:
    size = f" ({lengths.about}{lengths.prompts[row]} tokens)" if lengths else ""
    lines = [f"prompt{size}: {_text(problem.prompt)}", f"answer: {_text(problem.answer) if problem.answer else 'none'}"]
    if grades:
        own = sorted({name for grade in grades.values() for name in grade.parts if name.startswith(PART.format(""))})
        header = ["", "solved", "reward", *(name.removeprefix(PART.format("")) for name in own)]
        rows = [
            [SHOWN[kind], "yes" if grade.is_solved else "no", _number(grade), *(_given(grade.parts[n]) for n in own)]
            for kind, grade in grades.items()
        ]
        lines += _table([header, *rows])
    return "\n".join(lines)


def _number(grade: Grade) -> str:
    return "fails" if grade.status == "grader_failed" else f"{grade.reward:g}"


def _given(number: float) -> str:
    """Return what a reward gave, which is NaN where it is not for this answer."""
    return "none" if math.isnan(number) else f"{number:g}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, whose columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _text(text: str) -> str:
    """Return a text on one line, cut where it is long."""
    shown = repr(printable(text))
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."
