"""Trackers get each step once, under TRL's names, and nothing that they do ends training."""

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.tiny_runs import lines_of, rl_recipe, sft_recipe

from diffpo.core.errors import UserError
from diffpo.distributed.process import Process
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import RlRecipe, tracking
from diffpo.runs import trackers
from diffpo.runs.trackers import STATE, TRL_NAMES, TrackedRun, Trackers
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

SHORT = ["steps=6", "checkpoint.every=2"]
DOCS = Path(__file__).parents[2] / "docs"


class Spy:
    """A tracker that keeps what it gets, and fails where it is told to."""

    rewinds = False
    fails_at: int | str | None = None

    def __init__(self) -> None:
        self.runs: list[TrackedRun] = []
        self.logged: list[tuple[int, Mapping[str, float]]] = []
        self.finished: list[bool] = []

    def start(self, run: TrackedRun) -> str:
        if self.fails_at == "start":
            raise ConnectionError("no route to host")
        self.runs.append(run)
        return "look here"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.fails_at == step:
            raise OSError(28, "No space left on device")
        self.logged.append((step, metrics))

    def finish(self, has_failed: bool) -> None:
        self.finished.append(has_failed)
        if self.fails_at == "finish":
            raise TimeoutError("still sending")


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    """Spies in place of trackers, of which two are installed."""
    found = {"wandb": Spy(), "trackio": Spy()}
    monkeypatch.setattr(trackers, "TRACKERS", {name: lambda name=name: found[name] for name in found})
    monkeypatch.setattr(tracking, "find_spec", lambda name: name in found or None)
    return found


def broken_off(at: int) -> Any:
    def fail(policy: object, step: int) -> None:
        if step == at:
            raise RuntimeError("the power is gone")

    return fail


def run_twice(out: Path, *overrides: str) -> None:
    """Train six steps; the fifth is lost with the run, and done again from the checkpoint of the fourth."""
    recipe = sft_recipe(*SHORT, *overrides)
    with pytest.raises(RuntimeError, match="power"):
        run_sft(recipe, out, on_step=broken_off(5))
    run_sft(recipe, out, resume=True)


def test_each_step_is_sent_once_to_one_run(spies: dict[str, Spy], tmp_path: Path) -> None:
    run_twice(tmp_path / "run", 'track=["wandb"]')
    spy = spies["wandb"]
    assert [step for step, _ in spy.logged] == [1, 2, 3, 4, 5, 6]
    assert [dict(metrics) for _, metrics in spy.logged] == [
        {name: value for name, value in line.items() if name != "step"} for line in lines_of(tmp_path / "run")
    ]
    first, second = spy.runs
    assert first.id == second.id and first.name == second.name == f"run-{first.id}"
    assert (first.step, second.step) == (0, 4)
    assert first.config["batch"] == 8 and first.config["track"] == ["wandb"]
    assert spy.finished == [True, False]
    assert not spies["trackio"].runs


def test_a_tracker_that_rewinds_gets_a_step_again(spies: dict[str, Spy], tmp_path: Path) -> None:
    spies["wandb"].rewinds = True
    run_twice(tmp_path / "run", 'track=["wandb", "trackio"]')
    assert [step for step, _ in spies["wandb"].logged] == [1, 2, 3, 4, 5, 5, 6]
    assert [step for step, _ in spies["trackio"].logged] == [1, 2, 3, 4, 5, 6]


def test_a_tracker_of_a_later_start_gets_what_follows(spies: dict[str, Spy], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power"):
        run_sft(sft_recipe(*SHORT), tmp_path / "run", on_step=broken_off(5))
    run_sft(sft_recipe(*SHORT, 'track=["wandb"]'), tmp_path / "run", resume=True)
    assert [step for step, _ in spies["wandb"].logged] == [5, 6]


def test_one_that_fails_is_told_once_and_left(
    spies: dict[str, Spy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spies["wandb"].fails_at = 3
    run_sft(sft_recipe(*SHORT, 'track=["wandb", "trackio"]'), tmp_path / "run")
    assert [step for step, _ in spies["wandb"].logged] == [1, 2] and spies["wandb"].finished == []
    assert [step for step, _ in spies["trackio"].logged] == [1, 2, 3, 4, 5, 6]
    assert len(lines_of(tmp_path / "run")) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("diffpo: warning: wandb failed at step 3") and "No space left" in line
    assert "metrics.jsonl has every step" in line


def test_one_that_fails_at_the_end_has_ended_nothing(
    spies: dict[str, Spy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spies["wandb"].fails_at = "finish"
    run_sft(sft_recipe(*SHORT, 'track=["wandb", "trackio"]'), tmp_path / "run")
    assert spies["trackio"].finished == [False]
    assert "wandb failed at the end (still sending)" in capsys.readouterr().err


def test_one_that_does_not_start_ends_the_run_before_its_first_step(spies: dict[str, Spy], tmp_path: Path) -> None:
    spies["wandb"].fails_at = "start"
    with pytest.raises(UserError, match=r"wandb does not start \(no route to host\); .*WANDB_MODE=offline"):
        run_sft(sft_recipe(*SHORT, 'track=["trackio", "wandb"]'), tmp_path / "run")
    assert spies["trackio"].finished == [True]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    run_sft(sft_recipe(*SHORT), tmp_path / "run")  # and leaves the folder free


def test_one_that_is_not_installed_is_named_with_what_installs_it(spies: dict[str, Spy], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tensorboard, which is not installed: pip install 'diffpo\[tensorboard\]'"):
        tracking.require_trackers(["wandb", "tensorboard"])
    with pytest.raises(UserError, match="tensorboard"):
        run_sft(sft_recipe(*SHORT, 'track=["tensorboard"]'), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("track", "told"),
    [
        ('["wnadb"]', "track[0]: should be 'tensorboard', 'wandb' or 'trackio', got 'wnadb'; did you mean 'wandb'?"),
        ('["wandb", "trackio", "wandb"]', "track names wandb twice; name each tracker once"),
    ],
)
def test_names_are_checked(track: str, told: str) -> None:
    for recipe, needed in ((RlRecipe, ["base=x", "budget.steps=1"]), (type(sft_recipe()), [])):
        with pytest.raises(UserError) as caught:
            load_recipe(recipe, None, [*needed, f"track={track}"])
        assert told in str(caught.value)


def test_only_the_first_process_tracks(spies: dict[str, Spy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "current_process", lambda: Process(rank=1, world_size=2))
    with Trackers(["wandb"], tmp_path, 0, {}) as second:
        second.start()
        second.log(1, {"loss": 1.0})
    assert spies["wandb"].runs == [] and not (tmp_path / STATE).exists()


def test_a_spoilt_state_makes_a_new_run_of_it(spies: dict[str, Spy], tmp_path: Path) -> None:
    for content in ("", "[]", '{"id": 1}', '{"id": "a", "last_sent": 3}', '{"id": "a", "last_sent": {"wandb": "x"}}'):
        (tmp_path / STATE).write_text(content)
        with Trackers(["wandb"], tmp_path, 0, {}) as found:
            found.start()
    assert len({run.id for run in spies["wandb"].runs}) == 5


# ------------------------------------------------------------------------------------------------------------- names


def test_every_name_of_trls_is_logged_by_runs_and_documented(spies: dict[str, Spy], base: Path, tmp_path: Path) -> None:
    run_rl(rl_recipe(base, "budget.steps=1", "objective.kl_coef=0.1", 'track=["wandb"]'), tmp_path / "rl")
    run_sft(sft_recipe("steps=1"), tmp_path / "sft")
    (line,), (sft_line,) = lines_of(tmp_path / "rl"), lines_of(tmp_path / "sft")
    assert set(TRL_NAMES) <= line.keys()
    assert {"loss", "grad_norm", "learning_rate"} <= set(TRL_NAMES) & sft_line.keys()
    ((_, sent),) = spies["wandb"].logged
    assert set(TRL_NAMES.values()) <= sent.keys() and not {"clip_fraction", "seconds"} & sent.keys()
    assert sent["clip_ratio/region_mean"] == line["clip_fraction"] and sent["nfe"] == line["nfe"]
    page = (DOCS / "metrics.md").read_text().partition("## In trackers")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", page, re.MULTILINE)) == TRL_NAMES


def test_lengths_and_entropy_are_those_of_the_rollouts(base: Path, tmp_path: Path) -> None:
    hot, cold = rl_recipe(base, "budget.steps=1"), rl_recipe(base, "budget.steps=1", "rollout.temperature=0.3")
    run_rl(hot, tmp_path / "hot")
    run_rl(cold, tmp_path / "cold")
    (line,), (colder,) = lines_of(tmp_path / "hot"), lines_of(tmp_path / "cold")
    assert line["completions/mean_length"] == 16
    assert 0 < colder["entropy"] < line["entropy"] < 3
    assert line["learning_rate"] == pytest.approx(0.001 / 3)  # the first of three steps of warm-up


# ---------------------------------------------------------------------------------------------------- the real ones


def test_tensorboard_has_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'diffpo[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_twice(tmp_path / "run", 'track=["tensorboard"]')
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"loss", "grad_norm", "learning_rate"} == set(found.Tags()["scalars"])
    lines = lines_of(tmp_path / "run")
    for name in ("loss", "learning_rate"):
        assert [(event.step, event.value) for event in found.Scalars(name)] == [
            (line["step"], pytest.approx(line[name])) for line in lines
        ]


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of wandb's transaction log: LevelDB's format, in blocks of 32 KiB, behind a header."""
    at, record = 7, b""
    while at + 7 <= len(content):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
        _, size, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_offline_has_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install 'diffpo[wandb]'")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    run_twice(tmp_path / "run", 'track=["wandb"]')
    steps: list[int] = []
    ids = set()
    for file in sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")):
        for data in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
                steps.append(int(items["_step"]))
                assert json.loads(items["loss"]) == lines_of(tmp_path / "run")[steps[-1] - 1]["loss"]
    assert steps == [1, 2, 3, 4, 5, 6] and len(ids) == 1


def test_wandb_without_a_key_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="pip install 'diffpo[wandb]'")
    words = ["sft", "recipe.toml", "--out", "run"]  # in a process of its own: wandb reads its variables once
    (tmp_path / "recipe.toml").write_text(dump_recipe(sft_recipe(*SHORT, 'track=["wandb"]')))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-m", "diffpo", *words],
        env=kept | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("diffpo: wandb does not start (No API key") and "or run with WANDB_MODE=offline" in line


def test_trackio_has_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="pip install 'diffpo[trackio]'")
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setenv("TRACKIO_PROJECT", f"test-{tmp_path.parent.name}")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    run_twice(tmp_path / "run", 'track=["trackio"]')
    project = f"test-{tmp_path.parent.name}"
    name = f"run-{json.loads((tmp_path / 'run' / STATE).read_text())['id']}"
    rows = SQLiteStorage.get_logs(project, name)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in rows] == [line["loss"] for line in lines_of(tmp_path / "run")]
