"""The results of a study: one JSON line for each finished run, appended whole and flushed to the disk."""

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo.core.errors import UserError

RUNS = "runs.jsonl"
BOUNDARIES = "boundaries"
"""Stands for an estimator in the lines that test Assumption 2: each token read on every canvas before its own."""
Result = dict[str, Any]
Key = tuple[str, str, int, str]
KEYS = {
    "arms": {"study", "task", "arm", "seed", "settings", "completion_length", "clusters", "points", "training"},
    "likelihood": {"study", "task", "arm", "seed", "settings", "estimator", "clusters", "sums", "counts"},
}
"""What a line must have, by its kind."""


def key_of(line: Mapping[str, Any]) -> Key:
    """Task, arm, seed and, in a study of likelihoods, estimator."""
    return line["task"], line["arm"], line["seed"], line.get("estimator", "")


def read_results(path: Path, skip_broken: bool = False) -> list[Result]:
    """The lines of a result file, none if there is no file.

    Raises UserError naming the first line that is broken, or there twice; `skip_broken` leaves such lines out.
    """
    if not path.is_file():
        return []
    found: dict[Key, Result] = {}
    for number, text in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            line = _parsed(text, found.keys())
        except (ValueError, TypeError) as error:
            if not skip_broken:
                raise UserError(
                    f"{path}, line {number} is broken: {error}; mend or delete it, or leave it out by --skip-broken"
                ) from error
        else:
            found[key_of(line)] = line
    return list(found.values())


def _parsed(text: bytes, known: Collection[Key]) -> Result:
    line = json.loads(text)
    if not isinstance(line, dict) or line.get("kind") not in KEYS:
        raise ValueError("it is no result of a study")
    if missing := sorted(KEYS[line["kind"]] - line.keys()):
        raise ValueError(f"it lacks {', '.join(missing)}")
    if (key := key_of(line)) in known:
        raise ValueError(f"a line before it is of {' '.join(map(str, key)).strip()} too")
    return line


def append_results(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """In one write, on the disk when this returns. A last line that was cut short keeps a line of its own."""
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                data = b"\n" + data
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def differing(old: Any, new: Any, where: str = "") -> list[str]:
    """`key: old -> new` for every value in which two plain records differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys: Sequence[str] = list({**old, **new})
        return [line for key in keys for line in differing(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))]
    return [] if old == new else [f"{where}: {json.dumps(old)} -> {json.dumps(new)}"]
