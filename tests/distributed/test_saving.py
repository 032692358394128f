"""Checkpoints that are written while a run goes on: they are those of a run that waits for them."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.test_processes import outcome
from tests.distributed.test_sharding import in_processes, no_space
from tests.helpers.tiny_runs import SFT, lines_of
from tests.helpers.waiting import wait_until
from torch import distributed as dist
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from diffpo.core.errors import Stopped, UserError
from diffpo.distributed.process import current_process
from diffpo.models import manifest
from diffpo.models.manifest import MANIFEST, problems_of
from diffpo.models.model_paths import METRICS, SHARDS, checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import CheckpointRecipe, SftRecipe
from diffpo.runs import saving
from diffpo.runs.checkpoint import Begun, complete, explain_failed_save
from diffpo.runs.resume import RunProgress
from diffpo.runs.saving import Checkpoints, fits_in_memory
from diffpo.sampling.policy import Policy
from diffpo.training.sft import OnStep, run_sft

RUN = [*SFT, "batch=8", "steps=3", "optimizer.lr=0.01", "checkpoint.every=1", "checkpoint.keep=9", "parallel.shard=2"]
FULL = "cannot write to {} (process 1: [Errno 28] No space left on device), so the run has stopped; "


def train(base: Path, out: Path, *more: str, on_step: OnStep | None = None) -> None:
    run_sft(load_recipe(SftRecipe, None, [*RUN, f"base={json.dumps(str(base))}", *more]), out, on_step=on_step)


def behind_the_next_step(begun: Begun) -> None:
    """Complete a checkpoint once the run has taken another step, which must not wait for it."""
    log = begun.temporary.parent / METRICS
    if not begun.is_last:
        assert wait_until(lambda: len(log.read_text().splitlines()) > begun.progress.step, 30), "the run has waited"
    complete(begun)


def write_both(layout: str, base: Path, folder: Path) -> None:
    """Train with checkpoints that are waited for, with others, and with some that find no space."""
    rank = current_process().rank
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    train(base, folder / "waited")
    hashed: list[str] = []
    read, write = manifest._hash, HuggingFaceStorageWriter.write_data

    def note(file: Path) -> str:
        if file.parent.name == SHARDS:
            hashed.append(file.name.partition("-model")[0])
        return read(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "complete", behind_the_next_step)
        patch.setattr(manifest, "_hash", note)
        train(base, folder / "behind", "checkpoint.background=true")

    def write_once(*arguments: Any) -> Any:
        done.append(1)
        return no_space() if len(done) > 1 and rank == 1 else write(*arguments)

    def await_failure(policy: Policy, step: int) -> None:
        if step == 5:
            assert wait_until(lambda: all(thread.name != "background" for thread in threading.enumerate()), 30)

    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HuggingFaceStorageWriter, "write_data", write_once)
        more = ["steps=400", "checkpoint.every=2", "checkpoint.background=true"]
        full = outcome(partial(train, on_step=await_failure), base, folder / "full", *more)
    (folder / f"found-{rank}.json").write_text(json.dumps([hashed, full]))
    dist.destroy_process_group()


def test_checkpoints_of_two_processes_are_written_while_the_run_goes_on(base: Path, tmp_path: Path) -> None:
    """Of the weights and moments of their own step, each file hashed by the process that wrote it."""
    in_processes("1x2", tmp_path, write_both, base, tmp_path)
    waited, behind = (checkpoints(tmp_path / name) for name in ("waited", "behind"))
    assert [each.name for each in behind] == [each.name for each in waited] == [f"checkpoint-{i}" for i in range(1, 4)]
    for one, other in zip(waited, behind, strict=True):
        assert problems_of(other) == [] and (other / MANIFEST).exists()
        files = [file.name for file in sorted((one / SHARDS).iterdir())]
        assert files == [file.name for file in sorted((other / SHARDS).iterdir())] and len(files) == 2
        for name in files:
            ours, theirs = load_file(one / SHARDS / name), load_file(other / SHARDS / name)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert lines_of(tmp_path / "behind")[-1]["loss"] == lines_of(tmp_path / "waited")[-1]["loss"]
    first, second = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in (0, 1))
    assert [first[0], second[0]] == [["shard-00001"] * 3, ["shard-00002"] * 3]
    told = f"UserError: {FULL.format(tmp_path / 'full')}its last checkpoint is checkpoint-2; make room, then go on "
    assert first[1] == second[1] == f"{told}with --resume"
    assert [each.name for each in (tmp_path / "full").glob("*checkpoint*")] == ["checkpoint-2"]
    assert len(lines_of(tmp_path / "full")) == 5, "it has gone on though it knew"


@dataclass
class Writing:
    """A writer that waits until it may, and notes the steps of what it has written; step 13 finds no space."""

    may: threading.Event = field(default_factory=threading.Event)
    written: list[int] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    shards: dict[str, torch.Tensor] = field(default_factory=lambda: {"a": torch.zeros(2)})

    def begin(self, run: Path, progress: RunProgress, policy: Any, to_restore: Any, keep: int, is_last: bool) -> Begun:
        return Begun(run, run, progress, self.shards, keep, is_last)

    def complete(self, begun: Begun) -> None:
        self.may.wait(30)
        if begun.progress.step == 13:
            raise UserError("no space")
        self.written.append(begun.progress.step)
        self.threads.append(threading.current_thread())


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Writing]:
    found = Writing()
    monkeypatch.setattr(saving, "complete", found.complete)
    monkeypatch.setattr(saving, "begin_checkpoint", found.begin)
    yield found
    found.may.set()


def saver(tmp_path: Path, background: Any = True) -> Checkpoints:
    return Checkpoints(tmp_path, CheckpointRecipe(background=background))


def save(checkpoints: Checkpoints, step: int, is_last: bool = False) -> None:
    checkpoints.save(RunProgress(step), object.__new__(Policy), {}, is_last)


def test_one_checkpoint_is_finished_before_the_next_and_the_last_is_waited_for(
    writing: Writing, tmp_path: Path
) -> None:
    with saver(tmp_path) as checkpoints:
        save(checkpoints, 1)
        assert writing.written == []
        threading.Timer(0.2, writing.may.set).start()
        save(checkpoints, 2)
        assert writing.written[:1] == [1]
        save(checkpoints, 3, is_last=True)
        assert writing.written == [1, 2, 3] and writing.threads[-1] is threading.current_thread()


@pytest.mark.parametrize(("background", "tensors"), [(False, 1), ("auto", 1), (True, 0)])
def test_what_is_small_or_on_a_cpu_is_waited_for(
    background: Any, tensors: int, writing: Writing, tmp_path: Path
) -> None:
    writing.shards = dict.fromkeys("abc"[:tensors], torch.zeros(2))
    threading.Timer(0.1, writing.may.set).start()
    with saver(tmp_path, background) as checkpoints:
        save(checkpoints, 1)
        assert writing.written == [1]


@pytest.mark.parametrize("error", [None, ValueError("no"), Stopped("stopped")])
def test_what_was_begun_is_finished_however_the_run_ends(
    error: Exception | None, writing: Writing, tmp_path: Path
) -> None:
    threading.Timer(0.1, writing.may.set).start()
    with pytest.raises(type(error)) if error else saver(tmp_path / "other"), saver(tmp_path) as checkpoints:
        save(checkpoints, 1)
        if error:
            raise error
    assert writing.written == [1]


def test_who_is_interrupted_waits_for_nothing(writing: Writing, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), saver(tmp_path) as checkpoints:
        save(checkpoints, 1)
        raise KeyboardInterrupt
    assert writing.written == [] and time.monotonic() - started < 10


@pytest.mark.parametrize("error", [None, Stopped("stopped")])
def test_a_full_disk_is_told_at_the_end(error: Exception | None, writing: Writing, tmp_path: Path) -> None:
    writing.may.set()
    with pytest.raises((UserError, Stopped)) as caught, saver(tmp_path) as checkpoints:
        save(checkpoints, 13)
        if error:
            raise error
    assert str(caught.value) == "no space"


def test_a_full_disk_is_told_beside_what_the_run_ended_by(
    writing: Writing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writing.may.set()
    with pytest.raises(ValueError, match="a loss"), saver(tmp_path) as checkpoints:
        save(checkpoints, 13)
        raise ValueError("a loss")
    assert "no space" in capsys.readouterr().err


def test_of_two_mistakes_one_is_told(writing: Writing, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writing.may.set()
    with pytest.raises(UserError, match="the log"), saver(tmp_path) as checkpoints:
        save(checkpoints, 13)
        raise UserError("the log cannot be written")
    assert capsys.readouterr().err == ""


def test_that_it_has_no_use_is_said_once(writing: Writing, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writing.may.set()
    writing.shards = {}
    for background, count in ((True, 1), ("auto", 0), (False, 0)):
        with saver(tmp_path, background) as checkpoints:
            save(checkpoints, 1)
            save(checkpoints, 2)
        assert capsys.readouterr().err.count("checkpoint.background is for whole models in shards") == count


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file or directory"), OSError(28, "No space left")])
def test_a_folder_that_was_removed_is_said_to_be(error: OSError, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        pytest.raises(UserError, match=r"run was removed while a run wrote to it, so that has stopped; start it anew$"),
        explain_failed_save(run),
    ):
        raise error
    run.mkdir()
    advice = {2: "leave what it writes there", 28: "make room"}[error.errno or 0]
    told = rf"no checkpoint yet; {advice}, then go on with --resume$"
    with pytest.raises(UserError, match=told), explain_failed_save(run):
        raise error


def test_a_run_knows_that_a_checkpoint_has_failed(writing: Writing, tmp_path: Path) -> None:
    with saver(tmp_path) as checkpoints:
        save(checkpoints, 13)
        assert not checkpoints.has_failed
        writing.may.set()
        assert wait_until(lambda: checkpoints.has_failed, 10)
        with pytest.raises(UserError, match="no space"):
            save(checkpoints, 14)
        assert not checkpoints.has_failed
    assert writing.written == []


def test_copies_may_take_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 64}.__getitem__)
    tensors = {"a": torch.zeros(60), "b": torch.zeros(20)}  # 320 bytes
    assert fits_in_memory(tensors)
    assert not fits_in_memory(tensors | {"c": torch.zeros(1)})
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert not fits_in_memory(tensors)
