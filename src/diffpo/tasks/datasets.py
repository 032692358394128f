"""Read rows of data sets: from JSONL, CSV or Parquet files, a folder of them, or the Hugging Face hub.

Any mistake in the data is a UserError of one sentence that names the file, the line and the field.
"""

import csv
import json
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from diffpo.core.errors import UserError
from diffpo.core.hub_name import parse_hub_name
from diffpo.core.printable import character_name
from diffpo.core.strict_json import NotJsonError, read_json
from diffpo.core.suggestion import suggested_path, suggestion
from diffpo.tasks.base import Split

SUFFIXES = (".jsonl", ".csv", ".parquet")
PROBE_SECONDS = 2.5

_LONGEST_FIELD = 2**24  # characters of a field of a CSV file
_OTHER_SEPARATORS = ";\t|"
_LONGEST_LIST = 500  # characters of column names in a message: of a file that is no table, a name may be all of it


class DataAwayError(UserError):
    """A data set of the hub that cannot be had here."""

    def __init__(self, message: str, source: str, reason: str) -> None:
        super().__init__(message)
        self.source, self.reason = source, reason


@dataclass(frozen=True)
class Row:
    """One row of a data set."""

    location: str
    """The source and the row in it, for messages: `train.jsonl:3`, or `openai/gsm8k train row 3`."""
    columns: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return a text that is not blank. Raises UserError, as all of these methods do, where the row has none."""
        value = self.value(name)
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{self.location}: field {name!r} should be text, got {shortened(value)}")
        return value

    def written(self, name: str) -> str:
        """Return a text, or a number as it is written: `72` and `"72"` are the same answer."""
        value = self.value(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
            return str(value)
        return self.text(name)

    def first_text(self, name: str) -> str:
        """Return the first of a list of texts. CSV has no lists, so there the field holds a list in JSON."""
        value = self.value(name)
        texts = parse_json(value) if isinstance(value, str) else value
        first = texts[0] if isinstance(texts, list) and texts else None
        if not isinstance(first, str) or not first.strip():
            raise UserError(
                f"{self.location}: field {name!r} should be a list of texts (in CSV: a list in JSON), "
                f"got {shortened(value)}"
            )
        return first

    def integer(self, name: str) -> int:
        """Return a whole number, which may be written as a text."""
        value = self.value(name)
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value.strip()):
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"{self.location}: field {name!r} should be a whole number, got {shortened(value)}")
        return value

    def value(self, name: str) -> Any:
        """Return the value of a column."""
        if name not in self.columns:
            raise UserError(f"{self.location}: field {name!r} is missing; {there_are(self, name)}")
        return self.columns[name]

    def has(self, *names: str) -> bool:
        """Return whether the row has all of these columns."""
        return all(name in self.columns for name in names)


def there_are(row: Row, meant: str) -> str:
    """Return the columns that a row has, and which of them is `meant`, as a message ends."""
    names = [*row.columns]
    told = _other_separator(names) or suggestion(meant, names)
    return f"there are {', '.join(names)[:_LONGEST_LIST] or 'none'}{told}"


def _other_separator(names: Sequence[str]) -> str:
    """Return, as a message ends, that the only column of a CSV file looks like several; empty where it does not."""
    found = next((mark for mark in _OTHER_SEPARATORS if len(names) == 1 and mark in names[0]), None)
    return f"; it seems to be separated by {character_name(found)}, and a comma is expected" if found else ""


def splits_of(source: str) -> frozenset[Split]:
    """Return the splits that a source has: a file none, a folder those of its files, the hub train and test."""
    path = Path(source).expanduser()
    if path.is_dir():
        return frozenset(split for split in get_args(Split) if _file_of(path, split) is not None)
    return frozenset() if _is_local(path, source) else frozenset(("train", "test"))


def is_elsewhere(source: str) -> bool:
    """Return whether a source is a data set of the hub, and not a file or a folder here."""
    return not _is_local(Path(source).expanduser(), source)


def read_rows(source: str, split: Split) -> list[Row]:
    """Return the rows of a split, at least one. What was read is cached until the files change.

    `source` is a file, of which all rows are taken; a folder with a file for each split (`train.jsonl`, ...); or a data
    set of the hub, `owner/name`, with a revision and a configuration where wanted: `owner/name@revision:configuration`.
    Raises UserError for data that are not there, cannot be read, or are empty.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        file = _file_of(path, split)
        if file is None:
            raise UserError(f"{path}: no {split} split; put {split}.jsonl, .csv or .parquet there")
        path = file
    elif not _is_local(path, source):
        return _read_hub(source, split)
    if not path.exists():
        raise UserError(
            f"{source}: no such file or folder{suggested_path(source)}; give a {', '.join(SUFFIXES)} file, a folder "
            "with one for each split, or a data set of the hub, owner/name"
        )
    return _read_file(str(path), version_stamp(str(path)))


def version_stamp(source: str | None) -> str:
    """Return a text that changes when the files of a source do."""
    if source is None:
        return ""
    path = Path(source).expanduser()
    files = [path / f"{split}{suffix}" for split in get_args(Split) for suffix in SUFFIXES] if path.is_dir() else [path]
    return f"{os.path.realpath(path)} {[file.stat().st_mtime_ns for file in files if file.exists()]}"


def _is_local(path: Path, source: str) -> bool:
    return path.exists() or path.suffix in SUFFIXES or parse_hub_name(source) is None


def _file_of(folder: Path, split: Split) -> Path | None:
    files = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


# Files


@lru_cache(maxsize=8)
def _read_file(name: str, _stamp: str) -> list[Row]:
    path = Path(name)
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".jsonl": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise UserError(f"{path}: cannot tell its format; rename it to {', '.join(SUFFIXES)}")
    try:
        rows = list(readers[path.suffix](path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not rows:
        raise UserError(f"{path}: the data set is empty; give at least one row")
    return rows


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in _decoded_lines(path):
        if not line.strip():
            continue
        try:
            columns = read_json(line)
        except NotJsonError as error:
            raise UserError(f"{path}:{number}: {error}") from error
        except RecursionError as error:
            raise UserError(f"{path}:{number}: not JSON that can be read: too many nested brackets") from error
        if isinstance(columns, list):
            raise UserError(f"{path}:{number}: a JSON array; write one object in each line, as `jq -c '.[]'` does")
        if not isinstance(columns, dict):
            raise UserError(f"{path}:{number}: should be an object of fields, got {shortened(columns)}")
        row = Row(f"{path}:{number}", columns)
        if "\\u" in line:  # the only way in which text that is no Unicode comes into JSON
            _check_unicode(row)
        yield row


def _check_unicode(row: Row) -> None:
    """Raise UserError for half of a surrogate pair, which no file, tokenizer or terminal can take."""
    for name, value in row.columns.items():
        text = json.dumps([name, value], ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ascii(text[error.start])[1:-1]
            raise UserError(f"{row.location}: field {name!a} has {half}, half of a character; remove it") from error


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader((line for _, line in _decoded_lines(path)), strict=True)
    names: list[str] | None = None
    try:
        for values in reader:
            location = f"{path}:{reader.line_num}"
            if not values:
                continue
            if names is None:
                names = values
                if len(set(names)) < len(names):
                    raise UserError(f"{location}: the header names a field twice: {', '.join(names)[:_LONGEST_LIST]}")
            elif len(values) != len(names):
                problem = f"field {names[len(values)]!r} is missing" if len(values) < len(names) else "it has too many"
                told = f"{location}: {len(values)} fields instead of {len(names)}: {problem}"
                raise UserError(told + _other_separator(names))
            else:
                yield Row(location, dict(zip(names, values, strict=True)))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 from byte {error.start} on") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    if find_spec("pyarrow") is None:
        raise UserError(f"reading {path} needs pyarrow: pip install 'diffpo[data]', or export it as JSONL")
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        records = table.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not Parquet: {str(error).splitlines()[0]}") from error
    except (ValueError, OverflowError) as error:  # texts that are no UTF-8, dates that Python does not have
        raise UserError(f"{path}: its values cannot be read: {str(error).splitlines()[0]}") from error
    for number, columns in enumerate(records, start=1):
        yield Row(f"{path} row {number}", columns)


# The hub


@lru_cache(maxsize=4)
def _read_hub(source: str, split: str) -> list[Row]:
    name, options = _hub_arguments(source)
    if find_spec("datasets") is None:
        needed = "reading it needs pip install 'diffpo[data]'"
        raise DataAwayError(f"data set {source} is on the hub, and {needed}; {_advise_copy(source)}", source, needed)
    is_offline = any(os.environ.get(key, "0") not in ("", "0") for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    if not is_offline and (problem := _probe_hub(name)):
        raise DataAwayError(
            f"data set {source} cannot be read from the hub ({problem}); {_advise_copy(source)}", source, problem
        )
    import datasets

    try:
        table = datasets.load_dataset(name, **options, split=split)
        rows = [Row(f"{source} {split} row {number}", columns) for number, columns in enumerate(table, start=1)]
    except Exception as error:  # the library's, its client's or its parsers'
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataAwayError(
            f"data set {source} cannot be read from the hub ({words}); {_advise_copy(source)}", source, words
        ) from error
    if not rows:
        raise UserError(f"data set {source}: its split {split} is empty; give another task.source")
    return rows


def _hub_arguments(source: str) -> tuple[str, dict[str, str]]:
    """Return a data set's repository, and the keyword arguments that `datasets.load_dataset` needs besides."""
    name = parse_hub_name(source)
    assert name is not None, "any other source is a path"
    options = {"name": name.configuration, "revision": name.revision}
    return name.repository, {key: value for key, value in options.items() if value is not None}


def _advise_copy(source: str) -> str:
    """Say how to make a local copy of a data set of the hub, and use it."""
    name, options = _hub_arguments(source)
    arguments = ", ".join([repr(name), *(f"{key}={value!r}" for key, value in options.items())])
    load = f"d = datasets.load_dataset({arguments})"
    return (
        f'use a local copy instead: where the hub is in reach, run python -c "import datasets; {load}; '
        "[d[s].to_json(s + '.jsonl') for s in d]\" and give the folder of these files as task.source "
        "(HF_HUB_OFFLINE=1 takes what is in the hub's cache)"
    )


def _probe_hub(name: str) -> str:
    """Return why the hub will not give the data set, or "" if it will. The library would retry for half a minute."""
    answer = [f"no answer within {PROBE_SECONDS:g} s"]

    def ask() -> None:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        try:
            request = _request(f"{endpoint}/api/datasets/{urllib.parse.quote(name)}")
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answer[0] = ""
        except urllib.error.HTTPError as error:
            answer[0] = f"it answers {error.code}" + (
                ", as for a name that it does not have" if error.code in (401, 404) else ""
            )
        except (OSError, ValueError, HTTPException) as error:
            answer[0] = f"it is out of reach: {getattr(error, 'reason', error)}"

    thread = threading.Thread(target=ask, daemon=True)  # looking up the host's name cannot be given a time limit
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0]


def _request(address: str) -> urllib.request.Request:
    """Return a request of an address; a user and password in it become a header, as urllib takes them for a port."""
    parts = urllib.parse.urlsplit(address)
    user, has_user, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if has_user:
        request.add_header("Authorization", f"Basic {b64encode(urllib.parse.unquote(user).encode()).decode()}")
    return request


def parse_json(text: str) -> Any:
    """Return the value of a text in JSON; None if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def shortened(value: object) -> str:
    """Return the value as Python writes it, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
