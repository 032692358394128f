"""A checkpoint's manifest: whatever happens to a byte of it or of its files is seen, and named."""

import json
import random
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from diffpo.core.errors import UserError
from diffpo.models.manifest import MANIFEST, FileRecord, problems_of, whole_folder, write_manifest
from diffpo.models.model_paths import RECIPE

FILES = {
    "config.json": b'{"model_type": "llada"}',
    "model.safetensors": random.Random(0).randbytes(5000),
    "optimizer.pt": random.Random(1).randbytes(3000),
    "progress.json": b'{"step": 2, "has_manifest": true}\n',
    "more/inner.json": b"{}",
}


def make(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make(tmp_path / "checkpoint-2")


def test_what_was_written_is_whole(checkpoint: Path) -> None:
    assert problems_of(checkpoint) == []
    assert set(json.loads((checkpoint / MANIFEST).read_text())["files"]) == set(FILES)
    assert whole_folder(checkpoint) == checkpoint


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_every_flipped_bit_is_seen(name: str, checkpoint: Path) -> None:
    file, draw, word = checkpoint / name, random.Random(name), f"{name} is damaged"
    content = file.read_bytes()
    places = {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(100))}
    if name == MANIFEST:
        places = set(range(len(content)))
    for at in places:
        bit = 1 << draw.randrange(8)
        file.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
        found = problems_of(checkpoint)
        assert [problem[: len(word)] for problem in found] == [word], (at, bit)
    file.write_bytes(content)
    assert problems_of(checkpoint) == []


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(FILES["model.safetensors"][:-1])


def lengthen(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(FILES["model.safetensors"] + b"x")


def lose(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def add(folder: Path) -> None:
    (folder / "controller.safetensors").write_bytes(b"of another")


def swap(folder: Path) -> None:
    """The file of another checkpoint, as long as its own."""
    (folder / "model.safetensors").write_bytes(FILES["model.safetensors"][::-1])


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (cut, "model.safetensors is cut: 4999 bytes of 5000"),
        (lengthen, "model.safetensors is too long: 5001 bytes of 5000"),
        (lose, "model.safetensors is missing"),
        (add, "controller.safetensors is foreign"),
        (swap, "model.safetensors is damaged"),
    ],
)
def test_what_is_wrong_is_named(harm: Callable[[Path], None], word: str, checkpoint: Path) -> None:
    harm(checkpoint)
    assert [problem[: len(word)] for problem in problems_of(checkpoint)] == [word]
    with pytest.raises(UserError, match=rf"checkpoint-2 is not whole \({word.split()[0]}"):
        whole_folder(checkpoint)


def test_what_no_loader_reads_may_lie_beside_it(checkpoint: Path) -> None:
    for name in ("README.md", "eval.json", "eval-test.json", ".gitattributes"):
        (checkpoint / name).write_text("mine")
    assert problems_of(checkpoint) == []


def test_what_only_training_reads_may_be_missing_for_a_loader(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()
    assert whole_folder(checkpoint) == checkpoint
    assert problems_of(checkpoint) == ["optimizer.pt is missing"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (1, 2, 10):
        make(tmp_path / "run" / f"checkpoint-{step}")
    (tmp_path / "run" / RECIPE).touch()
    return tmp_path / "run"


def test_of_a_run_the_newest_whole_checkpoint_is_taken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert whole_folder(run) == run / "checkpoint-10"
    assert capsys.readouterr().err == ""
    lose(run / "checkpoint-10")
    swap(run / "checkpoint-2")
    assert whole_folder(run) == run / "checkpoint-1"
    (told,) = capsys.readouterr().err.splitlines()
    assert "checkpoint-10 is not whole (model.safetensors is missing); " in told
    assert "checkpoint-2 is not whole (model.safetensors is damaged" in told
    assert told.endswith("checkpoint-1 is used")
    cut(run / "checkpoint-1")
    with pytest.raises(UserError, match=r"has no checkpoint that is whole: .*checkpoint-10.*checkpoint-1 is not whole"):
        whole_folder(run)


def test_an_older_checkpoint_without_a_manifest_is_taken_and_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoint-10" / MANIFEST).unlink()
    assert whole_folder(run) == run / "checkpoint-10"
    (told,) = capsys.readouterr().err.splitlines()
    assert f"checkpoint-10 has no {MANIFEST}" in told and "cannot be checked" in told
    shutil.copytree(run / "checkpoint-10", run.parent / "model")
    assert whole_folder(run.parent / "model") == run.parent / "model"
    assert capsys.readouterr().err == "", "a model that is no checkpoint never had one"


@pytest.mark.parametrize("text", ["[" * 5000, '{"files": {"config.json": {"bytes": Infinity, "sha256": ""}}}'])
def test_a_manifest_that_python_cannot_hold_is_damaged(text: str, checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text(text)
    assert problems_of(checkpoint) == [f"{MANIFEST} is damaged"]


def test_what_another_machine_has_recorded_is_neither_read_nor_missed(checkpoint: Path) -> None:
    """Its files may not be seen here yet; that they are checked shows once one is not what was recorded."""
    late = checkpoint / "shards" / "late.safetensors"
    write_manifest(checkpoint, {"shards/late.safetensors": FileRecord(bytes=2, sha256=sha256(b"ok").hexdigest())})
    assert problems_of(checkpoint) == ["shards/late.safetensors is missing"]
    late.parent.mkdir(exist_ok=True)
    late.write_bytes(b"ok")
    assert problems_of(checkpoint) == []
    late.write_bytes(b"ko")
    assert problems_of(checkpoint) == ["shards/late.safetensors is damaged: its bytes are not those that were written"]
