"""Rows that a caller has in memory become JSON lines, which a task reads as those of any file."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from diffpo.core.arguments import shown
from diffpo.core.errors import UserError
from diffpo.tasks.base import Split
from diffpo.tasks.datasets import shortened

ROWS = "rows"
"""Stem of the file, or the folder's name, that holds them in a run's folder."""
FORMS = "a path, a list of dicts, a DataFrame, a datasets.Dataset, or a dict of these by split"


def json_lines(data: object) -> str | dict[str, str]:
    """Return rows in memory as JSON lines; those of a mapping from splits to rows split by split.

    Raises UserError, which names row and column, for what is no table of rows, and for values that JSON does not have.
    """
    if isinstance(data, Mapping):
        if not data or not set(data) <= set(get_args(Split)):
            raise UserError(
                f"data has the keys {', '.join(map(repr, data)) or 'none'}, which are no splits "
                f"({', '.join(get_args(Split))}); give {FORMS}"
            )
        return {split: _lines(rows, f"data[{split!r}]") for split, rows in data.items()}
    return _lines(data, "data")


def files_of(lines: str | Mapping[str, str], folder: Path) -> dict[Path, str]:
    """Return the content of each file that the rows have in a folder."""
    if isinstance(lines, str):
        return {rows_path(lines, folder): lines}
    return {rows_path(lines, folder) / f"{split}.jsonl": own for split, own in lines.items()}


def rows_path(lines: str | Mapping[str, str], folder: Path) -> Path:
    """Return the source that a recipe names for rows in this folder: a file, or a folder with one for each split."""
    return folder / (f"{ROWS}.jsonl" if isinstance(lines, str) else ROWS)


def _lines(data: Any, where: str) -> str:
    records = _records(data)
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        raise UserError(f"{where} is {shown(data)}; give {FORMS}")
    lines = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise UserError(f"{where} row {number} is {shortened(record)}; give rows that are dicts of their columns")
        row = {}
        for name, value in record.items():
            if not isinstance(name, str):
                raise UserError(f"{where} row {number} has a column {name!r}, whose name is no text; rename it")
            row[name] = _json_value(value, f"{where} row {number}: column {name!r}")
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    if not lines:
        raise UserError(f"{where} has no rows; give at least one")
    return "".join(lines)


def _records(data: Any) -> Any:
    """Return a table of pandas, polars or Arrow, none of which need be installed, as rows; all else as it is.

    What pandas shows as missing is None.
    """
    if hasattr(data, "notna") and hasattr(data, "columns"):
        return data.astype(object).where(data.notna(), None).to_dict("records")
    for method in ("to_dicts", "to_pylist"):
        if callable(getattr(data, method, None)):
            return getattr(data, method)()
    return data


def _json_value(value: Any, where: str) -> Any:
    """Return a value as JSON has it; numpy's as numbers and lists, a date as its text."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{where} holds {value}, which is no number of JSON; leave the row out, or give None")
        return value
    if isinstance(value, Mapping):
        return {str(key): _json_value(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, where) for item in value]
    if isinstance(value, date | time | Decimal | Path):
        return str(value)
    raise UserError(
        f"{where} holds a {type(value).__name__}, which JSON does not have; leave the column out, or write it as text"
    )
