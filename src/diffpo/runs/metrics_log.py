"""The lines of `metrics.jsonl` when a run goes on: those of steps that will be done again go, and a gap is told."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from diffpo.core.files import write_whole


def cut_metrics(path: Path, step: int) -> list[str]:
    """Drop the lines after `step`, and what is no record; return a phrase for each thing that is lost.

    A last line that a crash has cut short, and lines of steps that are done again, are no loss.
    """
    if not path.exists():
        return [f"{path} is gone, with the metrics of steps 1 to {step}"] if step else []
    kept: list[bytes] = []
    found: list[int] = []
    lines = path.read_bytes().splitlines(keepends=True)
    broken: list[int] = []
    for number, line in enumerate(lines, start=1):
        if (at := _step_of(line)) is None:
            broken.append(number)
        elif at <= step:
            kept.append(line if line.endswith(b"\n") else line + b"\n")
            found.append(at)
    content = b"".join(kept)
    if content != b"".join(lines):
        write_whole(path, content)
    told = []
    if missing := [at for at in range(1, step + 1) if at not in set(found)]:
        told.append(f"{path} has no line of {_spans('step', missing)}")
    if broken and (missing or broken[-1] < len(lines)):
        told.append(f"{_spans('line', broken)} of {path} could not be read and went")
    return told


def _step_of(line: bytes) -> int | None:
    """Return the step of a record; None for what is none."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _spans(what: str, numbers: Iterable[int]) -> str:
    """Return numbers as text: `steps 3, 7 to 9`."""
    shown = list(_runs(numbers))
    return f"{what}{'s' if len(shown) > 1 or ' to ' in shown[0] else ''} {', '.join(shown)}"


def _runs(numbers: Iterable[int]) -> Iterator[str]:
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        first, *others = [number for _, number in group]
        yield f"{first} to {others[-1]}" if others else str(first)
