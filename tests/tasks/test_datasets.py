"""Rows of files and of the hub, and the sentences that say what is wrong with them."""

import json
import re
import sys
import time
import types
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.tasks import datasets
from diffpo.tasks.datasets import Row, read_rows, splits_of


def write(file: Path, content: str | bytes) -> str:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


# --- files


def test_three_formats_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"question": "1 + 1, or\n\u20ac?", "answer": "2"}, {"question": "6 / 2?", "answer": "3"}]
    write(tmp_path / "a.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n")
    write(tmp_path / "b.csv", 'question,answer\n"1 + 1, or\n\u20ac?",2\n\n6 / 2?,3\n')
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.csv", "c.parquet"):
        assert [dict(row.columns) for row in read_rows(str(tmp_path / name), "train")] == rows
    assert [row.location for row in read_rows(str(tmp_path / "a.jsonl"), "train")] == [
        f"{tmp_path / 'a.jsonl'}:{line}" for line in (1, 3)
    ]


def test_a_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "x\n1\n")
    write(tmp_path / "test.jsonl", '{"x": 2}')
    assert splits_of(str(tmp_path)) == {"train", "test"}
    assert read_rows(str(tmp_path), "train")[0].columns == {"x": "1"}
    assert read_rows(str(tmp_path), "test")[0].columns == {"x": 2}
    with pytest.raises(UserError, match=r"no validation split; put validation\.jsonl"):
        read_rows(str(tmp_path), "validation")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", '{"x": 1}')
    assert read_rows(source, "train") is read_rows(source, "train")
    time.sleep(0.01)
    write(tmp_path / "a.jsonl", '{"x": 1}\n{"x": 2}')
    assert len(read_rows(source, "train")) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": 2', r"a\.jsonl:2: not JSON: Expecting ',' delimiter at column 8"),
        ("a.jsonl", '{"x": 1}\n7', r"a\.jsonl:2: should be an object of fields, got 7"),
        ("a.jsonl", '[{"x": 1}, {"x": 2}]', r"a\.jsonl:1: a JSON array; write one object in each line"),
        (
            "a.jsonl",
            '{"x": 1}\n{"y": ["a\\ud800b"]}',
            r"a\.jsonl:2: field 'y' has \\ud800, half of a character; remove",
        ),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: not JSON that can be read"),
        ("a.jsonl", '{"x": ' + "9" * 5000 + "}", r"a\.jsonl:1: not JSON that can be read: Exceeds the limit"),
        ("a.jsonl", b'{"x": 1}\n{"x": "\xff"}', r"a\.jsonl:2: not UTF-8 from byte 7 on"),
        ("a.jsonl", "\n\n", r"a\.jsonl: the data set is empty"),
        ("a.csv", "x,y\n1,2\n3\n", r"a\.csv:3: 1 fields instead of 2: field 'y' is missing"),
        ("a.csv", "x,y\n1,2,3\n", r"a\.csv:2: 3 fields instead of 2: it has too many"),
        ("a.csv", "x,x\n1,2\n", r"a\.csv:1: the header names a field twice"),
        ("a.csv", 'x\n"1\n2', r"a\.csv:3: not CSV: unexpected end of data"),
        ("a.csv", "x,y\n", r"a\.csv: the data set is empty"),
        ("a.csv", "", r"a\.csv: the data set is empty"),
        ("a.parquet", "x", r"a\.parquet: not Parquet: "),
        ("a.txt", "x", r"a\.txt: cannot tell its format; rename it to \.jsonl, \.csv, \.parquet"),
    ],
)
def test_what_is_broken_is_named(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_rows(write(tmp_path / name, content), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["absent.jsonl", "./absent", "/absent/folder", "absent", "a/b/c"])
def test_a_source_that_is_not_there(source: str) -> None:
    with pytest.raises(UserError, match="no such file or folder; give a "):
        read_rows(source, "train")


@pytest.mark.parametrize(
    ("columns", "ask", "message"),
    [
        ({"y": 1, "z": 2}, lambda row: row.text("x"), "here: field 'x' is missing; there are y, z"),
        ({"x": 1}, lambda row: row.text("x"), "here: field 'x' should be text, got 1"),
        ({"x": " "}, lambda row: row.text("x"), "here: field 'x' should be text, got ' '"),
        ({"x": None}, lambda row: row.integer("x"), "here: field 'x' should be a whole number, got None"),
        ({"x": True}, lambda row: row.integer("x"), "whole number, got True"),
        ({"x": "1.5"}, lambda row: row.integer("x"), "whole number, got '1.5'"),
        ({"x": "\u0663"}, lambda row: row.integer("x"), "whole number"),
    ],
)
def test_a_field_that_is_wrong_is_named(columns: dict[str, Any], ask: Callable[[Row], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(Row("here", columns))


def test_a_whole_character_may_be_escaped(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path / "a.jsonl", '{"x": "\\ud83d\\ude00 \\u00e9"}'), "train")
    assert row.text("x") == "\U0001f600 \u00e9"


@pytest.mark.parametrize(("value", "written"), [(72, "72"), (-1.5, "-1.5"), ("72", "72")])
def test_a_number_may_stand_where_a_text_is_asked_for(value: object, written: str) -> None:
    assert Row("here", {"x": value}).written("x") == written


@pytest.mark.parametrize("value", [True, None, [1], float("nan"), ""])
def test_what_is_neither_number_nor_text_is_named(value: object) -> None:
    with pytest.raises(UserError, match="here: field 'x' should be text"):
        Row("here", {"x": value}).written("x")


def test_without_pyarrow_parquet_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'diffpo\[data\]', or export it as JSONL"):
        read_rows(write(tmp_path / "d.parquet", "x"), "train")


# --- the hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A library `datasets` of one data set, and a hub that answers."""
    library = types.ModuleType("datasets")

    def load_dataset(
        path: str, name: str | None = None, *, split: str, revision: str | None = None
    ) -> list[dict[str, Any]]:
        if (path, name) != ("owner/sums", "main"):
            raise RuntimeError(f"BuilderConfig {name} not found.\nAvailable: ['main']")
        if revision is not None:
            return [{"x": revision}]
        return [{"x": split}, {"x": 2}] if split == "train" else []

    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(datasets, "find_spec", lambda name: name)
    monkeypatch.setattr(datasets, "_probe_hub", lambda name: "")
    datasets._read_hub.cache_clear()
    return library


def test_rows_of_the_hub(hub: types.ModuleType) -> None:
    assert splits_of("owner/sums:main") == {"train", "test"}
    rows = read_rows("owner/sums:main", "train")
    assert [row.columns for row in rows] == [{"x": "train"}, {"x": 2}]
    assert rows[1].location == "owner/sums:main train row 2"
    assert splits_of("owner/sums@refs/pr/1:main") == {"train", "test"}
    assert [row.columns for row in read_rows("owner/sums@refs/pr/1:main", "train")] == [{"x": "refs/pr/1"}]
    export = "datasets.load_dataset('owner/sums', revision='v1')"
    with pytest.raises(UserError, match=re.escape(export)):
        read_rows("owner/sums@v1", "train")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("owner/sums:main", "data set owner/sums:main: its split test is empty"),
        ("owner/sums", r"cannot be read from the hub \(BuilderConfig None not found\.\); use a local copy"),
    ],
)
def test_what_is_wrong_on_the_hub(hub: types.ModuleType, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_rows(source, "test")
    assert "\n" not in str(caught.value)


def told_without_a_hub(capsys: pytest.CaptureFixture[str]) -> str:
    started = time.monotonic()
    with pytest.raises(SystemExit) as caught:
        main(["rl", "d1", "--out", "nowhere", "base=absent", "task={kind='gsm8k'}"])
    assert time.monotonic() - started < 5
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and not Path("nowhere").exists()
    assert "data set openai/gsm8k:main" in line and "task.source" in line
    assert "datasets.load_dataset('openai/gsm8k', name='main')" in line
    return line


def test_without_the_library_the_command_says_how_to_export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    assert "pip install 'diffpo[data]'" in told_without_a_hub(capsys)


@pytest.mark.parametrize("way", ["refused", "silent", "unknown"])
def test_without_a_hub_the_command_says_how_to_export(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that cannot be looked up, a look-up that takes for ever, a hub that does not have it."""

    def urlopen(request: urllib.request.Request, timeout: float) -> None:
        address = request.full_url
        assert address == "https://huggingface.co/api/datasets/openai/gsm8k"
        if way == "unknown":
            raise urllib.error.HTTPError(address, 404, "Not Found", {}, None)  # type: ignore[arg-type]
        if way == "silent":
            time.sleep(20)
        raise urllib.error.URLError("Name or service not known")

    for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(datasets, "find_spec", lambda name: name)
    monkeypatch.setattr(datasets, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    words = {"refused": "out of reach: Name or", "silent": "no answer within 0.5 s", "unknown": "it answers 404"}
    assert words[way] in told_without_a_hub(capsys)


def test_a_password_in_the_hubs_address_is_a_header_and_not_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[urllib.request.Request] = []
    monkeypatch.setenv("HF_ENDPOINT", "https://me:pa%40ss@hub.example")

    def urlopen(request: urllib.request.Request, timeout: float) -> nullcontext[None]:
        asked.append(request)
        return nullcontext()

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert datasets._probe_hub("openai/gsm8k") == ""
    assert asked[0].full_url == "https://hub.example/api/datasets/openai/gsm8k"
    assert asked[0].get_header("Authorization") == f"Basic {b64encode(b'me:pa@ss').decode()}"
