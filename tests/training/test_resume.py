"""Going on with a run: what may differ, what is refused, what is told, and that nothing is lost."""

import errno
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.forked import Forked, run_doomed
from tests.helpers.tiny_runs import lines_of, make_old, rl_recipe, sft_recipe, snapshot, weights_of

from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.models.manifest import MANIFEST
from diffpo.models.model_paths import METRICS, RECIPE, checkpoints
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import SftRecipe
from diffpo.runs import checkpoint_folders
from diffpo.runs.resume import RunProgress, read_progress
from diffpo.runs.run_lock import RunLock
from diffpo.runs.saving import Checkpoints
from diffpo.sampling.policy import load
from diffpo.training import sft
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

FOUR = ("steps=4", "checkpoint.every=1")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SFT run of four steps that has stopped after three, with checkpoints of steps 2 and 3."""
    out = tmp_path_factory.mktemp("half") / "run"
    save = Checkpoints.save

    def save_three(checkpoints: Checkpoints, progress: RunProgress, *arguments: Any, **options: Any) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt
        save(checkpoints, progress, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", save_three)
        run_sft(sft_recipe(*FOUR), out)
    assert [folder.name for folder in checkpoints(out)] == ["checkpoint-2", "checkpoint-3"]
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "run"
    run_sft(sft_recipe(*FOUR), out)
    return snapshot(out)


@pytest.fixture
def run(half: Path, tmp_path: Path) -> Path:
    """A run of its own that has a step to do."""
    return Path(shutil.copytree(half, tmp_path / "run"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


# ------------------------------------------------------------------------------------------------------ what may differ


def test_what_changes_no_result_may_differ(
    run: Path, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = sft_recipe("steps=4", "checkpoint.every=3", "device=cpu", "micro_batch_size=8")
    run_sft(recipe, run, resume=True)
    assert snapshot(run) == whole
    (told,) = capsys.readouterr().err.splitlines()
    assert 'goes on with device: "auto" -> "cpu"; ' in told and "checkpoint.every: 1 -> 3" in told
    assert load_recipe(SftRecipe, str(run / RECIPE)) == recipe
    with pytest.raises(UserError, match=r"another recipe \(batch: 8 -> 4\)"):
        run_sft(sft_recipe(*FOUR, "batch=4"), run, resume=True)


def test_a_budget_may_be_raised_if_that_is_meant(
    whole: dict[str, Any], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A longer run is what it would have been from the start, where nothing goes by the budget's share."""
    longer = sft_recipe("steps=6", "checkpoint.every=1")
    run_sft(longer, tmp_path / "straight")
    run_sft(sft_recipe(*FOUR), run, resume=True)
    assert snapshot(run) == whole
    with pytest.raises(UserError, match=r"smaller budget \(steps: 4 -> 6\); add --extend"):
        run_sft(longer, run, resume=True)
    assert snapshot(run) == whole
    run_sft(longer, run, resume=True, extend=True)
    assert snapshot(run) == snapshot(tmp_path / "straight")
    with pytest.raises(UserError, match=r"another recipe \(steps: 6 -> 4\)"):
        run_sft(sft_recipe(*FOUR), run, resume=True, extend=True)
    capsys.readouterr()
    run_sft(longer, run, resume=True)
    assert f"{run} is finished, its model is in checkpoint-6" in capsys.readouterr().out
    assert snapshot(run) == snapshot(tmp_path / "straight")


def test_extend_is_for_a_run_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give it with --resume"):
        run_sft(sft_recipe(*FOUR), tmp_path / "new", extend=True)
    assert not (tmp_path / "new").exists()


def test_more_steps_do_not_undo_early_stopping(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("early_stopping.accuracy=0.5", "early_stopping.start=2", "early_stopping.every=2")
    for accuracy, steps in ((0.6, [2]), (0.1, [4, 6])):
        out = tmp_path / str(accuracy)
        monkeypatch.setattr(sft, "validate", lambda *_, accuracy=accuracy: accuracy)
        run_sft(sft_recipe("steps=4", *limits), out)
        assert read_progress(checkpoints(out)[-1]).step == steps[0]
        run_sft(sft_recipe("steps=6", *limits), out, resume=True, extend=True)
        assert read_progress(checkpoints(out)[-1]).step == steps[-1]


def test_a_base_may_have_moved_but_must_be_the_same(half: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(half, tmp_path / "base"))
    settings = ("train=policy", "objective.kl_coef=0.1", "checkpoint.every=1", "lora.rank=2", "lora.alpha=4")
    out = tmp_path / "run"
    run_rl(rl_recipe(base, *settings, "budget.steps=1"), out)
    run_rl(rl_recipe(base, *settings, "budget.steps=2"), tmp_path / "straight")
    moved = base.rename(tmp_path / "moved")
    another = tmp_path / "another"
    run_sft(sft_recipe("steps=1", "seed=5"), another)
    with pytest.raises(UserError, match=r"started from another model than the one in .*another now"):
        run_rl(rl_recipe(another, *settings, "budget.steps=2"), out, resume=True, extend=True)
    run_rl(rl_recipe(moved, *settings, "budget.steps=2"), out, resume=True, extend=True)
    assert snapshot(out) == snapshot(tmp_path / "straight")


# --------------------------------------------------------------------------------------------------------- auto, starts


def test_auto_starts_goes_on_and_is_done(
    whole: dict[str, Any], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sft(sft_recipe(*FOUR), tmp_path / "new", resume="auto")
    assert snapshot(tmp_path / "new") == whole
    run_sft(sft_recipe(*FOUR), run, resume="auto")
    assert snapshot(run) == whole
    capsys.readouterr()
    run_sft(sft_recipe(*FOUR), run, resume="auto")
    assert "is finished" in capsys.readouterr().out
    assert snapshot(run) == whole


def test_a_start_that_failed_before_its_first_step_holds_no_folder(
    whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for resume in (False, True, "auto"):
        with monkeypatch.context() as patch, pytest.raises(UserError, match="no memory"):

            def fail(*_: Any) -> None:
                raise UserError("no memory")

            patch.setattr(sft, "train_step", fail)
            run_sft(sft_recipe("steps=9", "seed=7"), out)
        assert (out / RECIPE).is_file()
        run_sft(sft_recipe(*FOUR), out, resume=resume)
        assert snapshot(out) == whole
        shutil.rmtree(out)


def test_two_runs_in_one_folder_are_refused(run: Path, tmp_path: Path) -> None:
    before = sorted(run.iterdir())
    with RunLock(run) as other:
        other.acquire()
        for resume in (True, "auto"):
            with pytest.raises(UserError, match="is in use by another run"):
                run_sft(sft_recipe(*FOUR), run, resume=resume)
    assert sorted(run.iterdir()) == before
    (tmp_path / "new").mkdir()
    with RunLock(tmp_path / "new") as other:
        other.acquire()
        with pytest.raises(UserError, match="is in use by another run"):
            run_sft(sft_recipe(*FOUR), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("loop", ["sft", "rl"])
def test_a_loop_has_the_lock_while_it_trains(
    loop: str, half: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, refused = tmp_path / "run", []

    def try_again(*_: Any) -> None:
        with (
            pytest.raises(UserError, match="is in use by another run"),
            RunLock(out) as second,
        ):
            second.acquire()
        refused.append(True)

    monkeypatch.setattr("diffpo.runs.run_dir.Run.log", try_again)
    if loop == "sft":
        run_sft(sft_recipe("steps=1"), out)
    else:
        run_rl(rl_recipe(half, "budget.steps=1"), out)
    assert refused == [True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_of_the_system_leaves_a_checkpoint_too(
    number: signal.Signals, whole: dict[str, Any], tmp_path: Path
) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(dump_recipe(sft_recipe("steps=4", "checkpoint.every=100")))
    code, errors = run_doomed("log", number, 2, ["sft", str(recipe), "--out", str(out)], tmp_path)
    assert code == 130
    assert errors == "diffpo: stopped at step 2; go on with the same command and --resume\n"
    assert read_progress(checkpoints(out)[-1]).step == len(lines_of(out)) == 2
    run_sft(sft_recipe("steps=4", "checkpoint.every=100"), out, resume=True)
    assert snapshot(out) == whole


# -------------------------------------------------------------------------------------------------- damaged checkpoints


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "progress.json", "config.json", MANIFEST])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    name: str, run: Path, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run / "checkpoint-3" / name)
    before = weights_of(run / "checkpoint-2")
    assert load(run).denoiser.model.state_dict()["model.transformer.wte.weight"].numpy().tobytes() in before.values()
    assert f"checkpoint-3 is not whole ({name} is damaged" in capsys.readouterr().err
    run_sft(sft_recipe(*FOUR), run, resume=True)
    assert snapshot(run) == whole
    (told,) = capsys.readouterr().err.splitlines()
    assert f"checkpoint-3 is not whole ({name} is damaged" in told
    assert told.endswith("and is kept as damaged-checkpoint-3; the run goes on from checkpoint-2")
    names = sorted(path.name for path in run.iterdir())
    assert names == ["checkpoint-3", "checkpoint-4", "damaged-checkpoint-3", METRICS, RECIPE]


def test_a_damaged_checkpoint_never_outlives_a_whole_one(run: Path, whole: dict[str, Any]) -> None:
    """Kept by its number it would be the newest, and what is trained from the one before it would be deleted."""
    (run / "checkpoint-3").rename(run / "checkpoint-9")
    flip(run / "checkpoint-9" / "model.safetensors")
    run_sft(sft_recipe("steps=4", "checkpoint.every=1", "checkpoint.keep=1"), run, resume=True)
    assert [folder.name for folder in checkpoints(run)] == ["checkpoint-4"]
    assert snapshot(run) == whole


def test_a_checkpoint_that_lost_its_manifest_or_its_name(run: Path, whole: dict[str, Any]) -> None:
    (run / "checkpoint-3" / MANIFEST).unlink()
    shutil.copytree(run / "checkpoint-2", run / "checkpoint-7")
    with pytest.raises(UserError) as caught:
        shutil.copytree(run, run.with_name("copy"))
        flip(run.with_name("copy") / "checkpoint-2" / "model.safetensors")
        run_sft(sft_recipe(*FOUR), run.with_name("copy"), resume=True)
    assert "checkpoint-7 is not whole (it is that of step 2 under another name)" in str(caught.value)
    assert f"checkpoint-3 is not whole ({MANIFEST} is missing)" in str(caught.value)
    assert "checkpoint-2 is not whole (model.safetensors is damaged" in str(caught.value)
    run_sft(sft_recipe(*FOUR), run, resume=True)
    assert snapshot(run) == whole


def test_an_older_version_s_checkpoint_goes_on_with_a_word(
    run: Path, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make_old(run / "checkpoint-3")
    run_sft(sft_recipe(*FOUR), run, resume=True)
    assert snapshot(run) == whole
    (told,) = capsys.readouterr().err.splitlines()
    assert f"checkpoint-3 has no {MANIFEST}" in told


@pytest.mark.parametrize("harm", ["cut", "another"])
def test_an_unreadable_optimizer_of_an_older_version_is_a_sentence(harm: str, run: Path) -> None:
    make_old(run / "checkpoint-3")
    file = run / "checkpoint-3" / "optimizer.pt"
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        torch.save({"controller": {}}, file)
    word = "cannot be read" if harm == "cut" else "has no state of policy"
    with pytest.raises(UserError, match=f"optimizer.pt {word}"):
        run_sft(sft_recipe(*FOUR), run, resume=True)


def test_a_joint_run_does_not_go_on_without_its_controller(half: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_rl(rl_recipe(half, "budget.steps=1"), out)
    (last,) = checkpoints(out)
    make_old(last)
    (last / "controller_config.json").unlink()
    with pytest.raises(UserError, match=r"it lacks controller_config\.json"):
        load(out)
    (last / "controller.safetensors").unlink()
    with pytest.raises(UserError, match="checkpoint-1 has no controller, and train = 'joint' goes on with one"):
        run_rl(rl_recipe(half, "budget.steps=2"), out, resume=True, extend=True)


def test_a_lost_line_of_the_log_is_told_and_the_others_stay(
    run: Path, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (run / METRICS).read_text().splitlines(keepends=True)
    (run / METRICS).write_text(lines[0] + lines[2])
    run_sft(sft_recipe(*FOUR), run, resume=True)
    assert capsys.readouterr().err == f"diffpo: {run / METRICS} has no line of step 2\n"
    assert [line["step"] for line in lines_of(run)] == [1, 3, 4]
    assert weights_of(checkpoints(run)[-1]).items() <= whole.items()


def test_what_a_killed_process_half_wrote_is_cleared_away_and_no_other_file(run: Path) -> None:
    mine = [run / ".recipe.toml.123.tmp", run / f".{METRICS}.123.tmp"]
    another = run / ".eval.json.123.tmp"  # of a process that evaluates the run now
    for file in (*mine, another):
        file.write_text("half")
    checkpoint_folders.tidy(run)
    assert another.exists() and not any(file.exists() for file in mine)


# --------------------------------------------------------------------------------------------------------- failed saves


def limited(limit: int, arguments: list[str]) -> None:
    """Run a command that can write no file of more bytes than this, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    main(arguments)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "tokenizer.json"])
def test_a_full_disk_is_a_sentence(file: str, run: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    limit = (run / "checkpoint-3" / file).stat().st_size - 1
    recipe, errors = tmp_path / "recipe.toml", tmp_path / "errors"
    recipe.write_text(dump_recipe(sft_recipe(*FOUR)))
    arguments = ["sft", str(recipe), "--out", str(run), "--resume"]
    assert Forked(limited, limit, arguments, stdout=Path(os.devnull), stderr=errors).wait() == 2, errors.read_text()
    (told,) = errors.read_text().splitlines()
    assert told.startswith(f"diffpo: cannot write to {run} (") and "its last checkpoint is checkpoint-3" in told
    assert told.endswith("make room, then go on with --resume")
    assert not any(run.glob(".*")), "what was half written has gone"
    run_sft(sft_recipe(*FOUR), run, resume=True)
    assert snapshot(run) == whole


def test_a_log_that_cannot_be_written_is_a_sentence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if self.name == METRICS and mode == "a":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"cannot write to .* \(No space left on device\).*checkpoint-3; make room"):
        run_sft(sft_recipe(*FOUR), run, resume=True)


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_checkpoint_that_replaces_another_never_leaves_neither(
    moment: int, run: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the same step, as after a damaged one was brought back by hand; crashes around each of two renames."""
    rename, left = Path.rename, moment

    def crash_around(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        result = rename(self, target)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return result

    shutil.copytree(run / "checkpoint-3", run / "checkpoint-4")
    temporary, final = run / ".checkpoint-4.tmp", run / "checkpoint-4"
    shutil.copytree(run / "checkpoint-3", temporary)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", crash_around)
        checkpoint_folders.put_in_place(temporary, final)
    checkpoint_folders.tidy(run)
    assert final.is_dir() and not any(run.glob(".*"))
    assert (final / MANIFEST).is_file()
