"""The file of a study's results: a JSON line for each finished run, appended whole and flushed to the disk."""

import fcntl
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo.core.errors import UserError

RUNS = "runs.jsonl"
BOUNDARIES = "boundaries"
"""Stands for an estimator in results that test Assumption 2: each token is scored on every canvas before its own."""
Result = dict[str, Any]
Key = tuple[str, str, int, str]
KEYS = {
    "arms": {"study", "task", "arm", "seed", "settings", "completion_length", "clusters", "points", "training"},
    "likelihood": {"study", "task", "arm", "seed", "settings", "estimator", "clusters", "sums", "counts"},
}
"""The fields that a result must have, by its kind."""


def key_of(result: Mapping[str, Any]) -> Key:
    """Return task, arm, seed and, in a study of likelihoods, estimator."""
    return result["task"], result["arm"], result["seed"], result.get("estimator", "")


def read_results(path: Path, skip_broken: bool = False) -> list[Result]:
    """Return the results in a file, none if there is no file.

    Raises UserError naming the first line that is broken, or whose run has a line before it; `skip_broken` leaves such
    lines out.
    """
    if not path.is_file():
        return []
    found: dict[Key, Result] = {}
    for number, text in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            result = _parsed(text, found.keys())
        except (ValueError, TypeError, RecursionError) as error:
            if not skip_broken:
                raise UserError(
                    f"{path}, line {number} is broken: {error}; mend or delete it, or leave it out by --skip-broken"
                ) from error
        else:
            found[key_of(result)] = result
    return list(found.values())


def _parsed(line: bytes, known: Collection[Key]) -> Result:
    result = json.loads(line)
    if not isinstance(result, dict) or result.get("kind") not in KEYS:
        raise ValueError("it is no result of a study")
    if missing := sorted(KEYS[result["kind"]] - result.keys()):
        raise ValueError(f"it lacks {', '.join(missing)}")
    if (key := key_of(result)) in known:
        raise ValueError(f"a line before it is of {' '.join(map(str, key)).strip()} too")
    return result


def append_results(path: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """Append results in one write; they are on the disk when this returns. Of several processes one appends at a time.

    Where the last line in the file was cut short, they begin on a new one.
    """
    data = b"".join(json.dumps(result, separators=(",", ":")).encode() + b"\n" for result in results)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                data = b"\n" + data
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def differing(old: Any, new: Any, where: str = "") -> list[str]:
    """Return `key: old -> new` for every value in which two plain records differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys: Sequence[str] = list({**old, **new})
        return [
            change for key in keys for change in differing(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{where}: {json.dumps(old)} -> {json.dumps(new)}"]
