"""What a checkpoint's files were when they were written: sizes and hashes, to tell a damaged one from a whole one.

This module imports no torch.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypedDict

from diffpo.core.errors import UserError
from diffpo.core.output import warn
from diffpo.distributed.process import current_process
from diffpo.models.model_paths import CHECKPOINT, checkpoints, join_names, model_folder

MANIFEST = "checkpoint_manifest.json"
PROGRESS, OPTIMIZER = "progress.json", "optimizer.pt"
"""The files of a checkpoint that only training reads."""
HAS_MANIFEST = "has_manifest"
"""In `progress.json`: the checkpoint was written with a manifest, and one that is lacking was lost."""
READ_BY_LOADERS = (".safetensors", ".pt", ".bin", ".json", ".jinja", ".model")
"""Endings of files that a loader might take for a part of the model, if they lay beside it."""
CARD = "README.md"
"""The model card, which people edit and `diffpo eval` adds to: it has no part in whether a checkpoint is whole."""
EVALUATIONS = "eval*.json"
"""Records that `diffpo eval` leaves in the folder of what it measures."""


class FileRecord(TypedDict):
    """What is recorded of a file."""

    bytes: int
    sha256: str


def write_manifest(folder: Path, known: Mapping[str, FileRecord] | None = None) -> None:
    """Record the size and the SHA-256 of every file under a folder, its card apart, in a file beside them.

    Files whose records are `known` are not read: other machines wrote them, and a network's file system may show them
    here later.
    """
    known = known or {}
    files = {name: known.get(name) or record_of(folder / name) for name in sorted(_names(folder) | known.keys())}
    (folder / MANIFEST).write_text(_text(files), encoding="utf-8")


def record_of(file: Path) -> FileRecord:
    """Return what a manifest says of a file, which is read."""
    return FileRecord(bytes=file.stat().st_size, sha256=_hash(file))


def problems_of(folder: Path, may_lack: Collection[str] = ()) -> list[str]:
    """Return what is wrong with the files of a checkpoint, a phrase a file; nothing where there is no manifest.

    Every byte of every file is read. Files named in `may_lack` need not be there.
    """
    if not (folder / MANIFEST).exists():
        return []
    try:
        files = _read(folder / MANIFEST)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return [f"{MANIFEST} is damaged"]
    found = [problem for name, record in files.items() if (problem := _problem(folder, name, record, may_lack))]
    for name in sorted(_names(folder) - files.keys()):
        path = Path(name)
        if path.suffix in READ_BY_LOADERS and not path.match(EVALUATIONS):
            found.append(f"{name} is foreign, no file of this checkpoint")
    return found


def whole_folder(path: Path) -> Path:
    """Return the folder with the weights, as `model_folder`; of a run, its newest checkpoint that is whole.

    A checkpoint that is passed over is named on stderr, and so is one without a manifest, which cannot be checked.
    Raises UserError where there is no model, and naming what is damaged where nothing is whole.
    """
    if (path / MANIFEST).exists() or (folder := model_folder(path)).parent != path:
        folder = path if (path / MANIFEST).exists() else folder
        if problems := problems_of(folder, may_lack=(PROGRESS, OPTIMIZER)):
            raise UserError(
                f"{folder} is not whole ({join_names(problems)}); name another checkpoint, or, if you "
                f"changed it yourself, delete its {MANIFEST}"
            )
        if folder.name.startswith(CHECKPOINT) and (folder / PROGRESS).exists():
            warn_unchecked(folder)
        return folder
    found, passed = newest_whole(path, lambda checkpoint: problems_of(checkpoint, may_lack=(PROGRESS, OPTIMIZER)))
    if passed and current_process().is_main:
        warn(f"diffpo: {passed_over(passed)}; {found} is used")
    warn_unchecked(found)
    return found


def newest_whole(run: Path, problems: Callable[[Path], list[str]]) -> tuple[Path, dict[Path, list[str]]]:
    """Return the newest checkpoint of a run that has no `problems`, and those of the newer ones.

    The run must have a checkpoint. Raises UserError where none of them is whole.
    """
    passed: dict[Path, list[str]] = {}
    for folder in reversed(checkpoints(run)):
        if not (found := problems(folder)):
            return folder, passed
        passed[folder] = found
    raise UserError(f"{run} has no checkpoint that is whole: {passed_over(passed)}; train it anew in another folder")


def passed_over(passed: Mapping[Path, list[str]]) -> str:
    """Return a phrase that says what is wrong with each checkpoint."""
    return "; ".join(f"{folder} is not whole ({join_names(problems)})" for folder, problems in passed.items())


def warn_unchecked(folder: Path) -> None:
    """Say on stderr, in the first process, that a checkpoint has no manifest, where that is so."""
    if not (folder / MANIFEST).exists() and current_process().is_main:
        warn(f"diffpo: {folder} has no {MANIFEST}, as those of older versions, so its files cannot be checked")


def _problem(folder: Path, name: str, record: FileRecord, may_lack: Collection[str]) -> str | None:
    file = folder / name
    try:
        if not file.is_file():
            return None if name in may_lack else f"{name} is missing"
        size = file.stat().st_size
        if size != record["bytes"]:
            return f"{name} is {'cut' if size < record['bytes'] else 'too long'}: {size} bytes of {record['bytes']}"
        if _hash(file) != record["sha256"]:
            return f"{name} is damaged: its bytes are not those that were written"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST, CARD}


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _text(files: Mapping[str, FileRecord]) -> str:
    """Return the manifest's text. It has a hash of itself, and there is one text for a content: a flip shows."""
    own = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "sha256": own}, indent=1, sort_keys=True) + "\n"


def _read(manifest: Path) -> dict[str, FileRecord]:
    """Return what a manifest says. Raises ValueError, TypeError, KeyError or AttributeError for a damaged one."""
    raw = manifest.read_bytes()
    entries: dict[str, FileRecord] = json.loads(raw)["files"]
    files = {
        name: FileRecord(bytes=int(record["bytes"]), sha256=str(record["sha256"])) for name, record in entries.items()
    }
    if _text(files).encode() != raw:
        raise ValueError("a manifest is written in one way only")
    return files
