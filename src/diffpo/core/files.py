"""Write files that must be whole: a crash at any moment leaves the old file or the new one, never a part of either."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from diffpo.core.errors import UserError

BESIDE_A_MODEL = ("eval*.json", "*.html")
"""Names of files that evaluations and reports write into a model's folder."""


def is_file(path: Path) -> bool:
    """Return whether the file is there; what a system takes for no path, since it is too long, is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there with all of `content`, on the disk, or not changed at all.

    Text is written as UTF-8, half a surrogate pair as an escape.

    The content goes into a file beside it that is flushed and renamed. Missing folders are made. A link is followed; a
    device or a pipe, which cannot be replaced, is written to as it is. Raises OSError where that is not possible.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    final = Path(os.path.realpath(path))
    if not final.parent.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
    flush_entry(final.parent)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write `value` as JSON, with a line's end after it, by `write_whole`."""
    write_whole(path, json.dumps(value, indent=indent) + "\n")


def flush_entry(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Wait until every file under `folder`, and the folder's own names, are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            flush_entry(path)
    flush_entry(folder)


@contextmanager
def whole_new_folder(folder: Path) -> Iterator[Path]:
    """Give the block a folder to fill, which then takes the name `folder`; where the block fails, nothing is left.

    `folder` must not be there, or be empty. Raises OSError where it cannot be written.
    """
    final = Path(os.path.realpath(folder))
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        flush_tree(temporary)
        os.replace(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush_entry(temporary.parent)


def check_writable(path: Path, option: str = "--out", is_folder: bool = False, begins: bytes = b"") -> None:
    """Raise UserError where a file, or files in a folder, could not be written, before hours of work are lost by it.

    So it does for a place in a model's folder, whose files would no longer be whole, but for the records and pages that
    may lie beside a model; and for a file that is there and does not begin with `begins`, as those do that it may
    replace.

    Nothing is changed: the nearest folder that is there gets a file for a moment. Folders that are missing are made
    when there is something to write.
    """
    with explain_write_errors(path, option, is_folder):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and stat.S_ISDIR(mode) != is_folder:
            code = errno.ENOTDIR if is_folder else errno.EISDIR
            raise OSError(code, os.strerror(code))
        if mode is not None and not is_folder and not stat.S_ISREG(mode):
            return  # a device or a pipe is written to as it is
        place = Path(os.path.realpath(path))
        if mode is not None and not is_folder:
            with place.open("rb") as file:
                beginning = file.read(len(begins))
            is_of_run = path.name in ("recipe.toml", "metrics.jsonl")
            if is_of_run or (begins and beginning and beginning.lower() != begins.lower()):
                raise UserError(f"{path} is there and is no such file as would replace it; choose another {option}")
        may_lie_there = not is_folder and any(place.match(pattern) for pattern in BESIDE_A_MODEL)
        while not place.is_dir():
            place = place.parent
        if not may_lie_there and (
            model := next((folder for folder in (place, *place.parents) if _holds_model(folder)), None)
        ):
            raise UserError(f"{path} is in the folder of a model, {model}; choose another {option}")
        with TemporaryFile(dir=place):
            pass


def unusable_path(error: OSError) -> str | None:
    """Return a sentence for an error about a path that no file can have; None for any other error."""
    if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
        return None
    return f"{error.filename!s:.100} cannot be used as a path ({error.strerror}); name another"


def _holds_model(folder: Path) -> bool:
    has_config = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    return has_config and ((folder / "shards").is_dir() or next(folder.glob("*.safetensors"), None) is not None)


@contextmanager
def explain_write_errors(path: Path, option: str = "--out", is_folder: bool = False) -> Iterator[None]:
    """Turn an OSError into a UserError that says what cannot be written and which option names another path.

    `path` is the file to be written or, where `is_folder`, the folder to be written to.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "\0" not in str(path):
            raise
        to, told = "to " if is_folder else "", getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {to}{path} ({told}); choose another {option}") from error
