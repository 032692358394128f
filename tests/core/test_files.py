import os
import stat
from pathlib import Path
from typing import Any

import pytest

from diffpo.core.errors import UserError
from diffpo.core.files import (
    check_writable,
    explain_write_errors,
    flush_tree,
    is_file,
    whole_new_folder,
    write_json,
    write_whole,
)


class Crash(BaseException):
    pass


@pytest.mark.parametrize("content", ["a line\nß\n", b"\x00\xff", ""])
def test_a_file_gets_all_of_its_content(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_whole(path, "an older and longer content")
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_leaves_the_old_file_and_nothing_beside_it(
    call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def crash(*arguments: Any) -> None:
        raise Crash

    path = tmp_path / "file"
    write_whole(path, "old")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(os, call, crash)
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_flushed_before_the_name_and_the_name_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[Any] = []
    fsync, replace = os.fsync, os.replace

    def fsync_spy(descriptor: int) -> None:
        status = os.fstat(descriptor)
        events.append((status.st_ino, status.st_size if stat.S_ISREG(status.st_mode) else None))
        fsync(descriptor)

    def replace_spy(source: Path, target: Path) -> None:
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync_spy)
    monkeypatch.setattr(os, "replace", replace_spy)
    write_whole(path := tmp_path / "file", "12345")
    assert events == [(path.stat().st_ino, 5), "replace", (tmp_path.stat().st_ino, None)]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_whole(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_json_ends_its_line(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"a": [1, None]})
    assert (tmp_path / "file").read_text() == '{"a": [1, null]}\n'
    write_json(tmp_path / "file", {"a": 1}, indent=2)
    assert (tmp_path / "file").read_text() == '{\n  "a": 1\n}\n'


def test_all_files_of_a_tree_are_flushed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    files = [tmp_path / "one", tmp_path / "folder" / "two"]
    for file in files:
        file.touch()
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    flush_tree(tmp_path)
    assert {path.stat().st_ino for path in (*files, tmp_path)} <= set(flushed)
    assert flushed[-1] == tmp_path.stat().st_ino


def test_what_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "x"
    with pytest.raises(UserError) as told, explain_write_errors(path):
        write_whole(path, "text")
    assert str(told.value) == f"cannot write {path} (Not a directory); choose another --out"
    with pytest.raises(UserError) as told, explain_write_errors(path, option="--json", is_folder=True):
        path.mkdir(parents=True)
    assert str(told.value) == f"cannot write to {path} (Not a directory); choose another --json"
    with pytest.raises(UserError, match="Is a directory"), explain_write_errors(tmp_path):
        write_whole(tmp_path, "text")
    with pytest.raises(ValueError), explain_write_errors(path):
        raise ValueError


def test_a_path_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    for path, is_folder, told in (
        (tmp_path / "file", True, "Not a directory"),
        (tmp_path / "folder", False, "Is a directory"),
        (tmp_path / "file" / "below", False, "Not a directory"),
        (tmp_path / "loop", False, "symbolic links"),
        (tmp_path / ("x" * 300), False, "File name too long"),
        (tmp_path / "a\0b", True, "null"),
        (Path("/proc/nowhere/file"), False, "/proc/nowhere/file"),
    ):
        with pytest.raises(UserError, match=f"cannot write .*{told}.*choose another --out"):
            check_writable(path, is_folder=is_folder)
    before = sorted(tmp_path.rglob("*"))
    for path, is_folder in (
        (tmp_path / "file", False),
        (tmp_path / "new" / "file", False),
        (tmp_path / "folder", True),
    ):
        check_writable(path, is_folder=is_folder)
    check_writable(tmp_path / "new" / "folder", is_folder=True)
    check_writable(Path("/dev/null"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), whole_new_folder(tmp_path / "new") as folder:
        (folder / "part").write_text("a part")
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    with whole_new_folder(tmp_path / "new") as folder:
        (folder / "part").write_text("all of it")
        assert list((tmp_path / "new").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new" / "part").read_text() == "all of it"


def test_what_is_too_long_for_a_path_is_no_file(tmp_path: Path) -> None:
    try:
        found = [is_file(tmp_path / name) for name in ("x" * 300, "\0", "absent")]
    except OSError:
        found = [True]
    assert found == [False] * 3 and is_file(Path(__file__)) and not is_file(tmp_path)


def test_a_models_folder_is_not_written_to(tmp_path: Path) -> None:
    """A stray file there makes a checkpoint one that is not whole."""
    model = tmp_path / "run" / "checkpoint-3"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    check_writable(model, is_folder=True)  # as of a project that has such a file
    (model / "model.safetensors").touch()
    for path, is_folder in ((model, True), (model / "new" / "run", True), (model / "config.json", False)):
        with pytest.raises(UserError, match="is in the folder of a model"):
            check_writable(path, is_folder=is_folder)
    check_writable(tmp_path / "run" / "merged", is_folder=True)
    for name in ("eval.json", "eval-sudoku.json", "report.html"):
        check_writable(model / name)
    check_writable(tmp_path / "run" / "eval.json")


@pytest.mark.parametrize(
    ("name", "content", "is_right"),
    [
        ("report.html", "<!DOCTYPE html>\n<p>", True),
        ("report.html", "", True),
        ("notes.html", "<p>my notes", False),
        ("eval.json", "{}", False),
        ("recipe.toml", "", False),
        ("metrics.jsonl", "<!doctype html>", False),
    ],
)
def test_only_a_file_of_its_kind_is_replaced(name: str, content: str, is_right: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    told = ""
    try:
        check_writable(tmp_path / name, begins=b"<!doctype html")
    except UserError as error:
        told = str(error)
    assert told == (
        "" if is_right else f"{tmp_path / name} is there and is no such file as would replace it; choose another --out"
    )
