"""Rows in memory: what becomes of tables of every library, and mistakes by row and column."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from diffpo.core.errors import UserError
from diffpo.tasks.given_rows import files_of, json_lines, rows_path


class Frame:
    """As much of a pandas DataFrame as is looked at."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.columns = rows, [*rows[0]]

    def notna(self) -> "Frame":
        return Frame([{name: value == value for name, value in row.items()} for row in self.rows])

    def astype(self, kind: type) -> "Frame":
        assert kind is object
        return self

    def where(self, mask: "Frame", other: object) -> "Frame":
        pairs = zip(self.rows, mask.rows, strict=True)
        return Frame([{name: row[name] if there[name] else other for name in row} for row, there in pairs])

    def to_dict(self, form: str) -> list[dict[str, Any]]:
        assert form == "records"
        return self.rows


ROWS = [{"prompt": "ä", "n": 1, "ok": True, "m": [{"role": "user", "content": "x"}]}, {"prompt": "b", "n": None}]


@pytest.mark.parametrize("data", [ROWS, tuple(ROWS), iter(ROWS)], ids=["list", "tuple", "iterator"])
def test_rows(data: object) -> None:
    lines = json_lines(data)
    assert isinstance(lines, str) and [json.loads(line) for line in lines.splitlines()] == ROWS


def test_tables_of_libraries() -> None:
    frame = Frame([{"a": "x", "b": float("nan")}, {"a": "y", "b": np.float64(2.5)}])
    assert json_lines(frame) == '{"a": "x", "b": null}\n{"a": "y", "b": 2.5}\n'
    assert json_lines(pyarrow.table({"a": [1, None]})) == '{"a": 1}\n{"a": null}\n'
    values = {"array": np.arange(2), "int": np.int64(3), "day": datetime.date(2026, 1, 2)}
    assert json_lines([values]) == '{"array": [0, 1], "int": 3, "day": "2026-01-02"}\n'


def test_splits_are_files_of_a_folder(tmp_path: Path) -> None:
    lines = json_lines({"train": [{"a": 1}], "test": [{"a": 2}]})
    assert rows_path(lines, tmp_path) == tmp_path / "rows"
    assert files_of(lines, tmp_path) == {
        tmp_path / "rows" / "train.jsonl": '{"a": 1}\n',
        tmp_path / "rows" / "test.jsonl": '{"a": 2}\n',
    }


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("rows.jsonl", "data is 'rows.jsonl'; give a path"),
        (5, "data is 5; give a path"),
        ({"prompt": ["a"]}, r"data has the keys 'prompt', which are no splits \(train, validation, test\)"),
        ({"test": 5}, r"data\['test'\] is 5"),
        ([1], "data row 1 is 1; give rows that are dicts"),
        ([], "data has no rows"),
        ([{"a": 1}, {"a": float("inf")}], "data row 2: column 'a' holds inf"),
        ([{"a": [object()]}], "data row 1: column 'a' holds a object"),
        ([{1: 2}], "data row 1 has a column 1, whose name is no text"),
    ],
)
def test_what_is_no_table_of_rows(data: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        json_lines(data)
