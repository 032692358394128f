"""The demo from end to end on tiny recipes: interrupted, gone on with, summed up, and kept when another one starts."""

import json
import os
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from tests.helpers.forked import Forked

from diffpo.cli import demo
from diffpo.cli.main import main
from diffpo.core.errors import Stopped
from diffpo.models.model_paths import checkpoints
from diffpo.recipes import files
from diffpo.report.data import read_run
from diffpo.runs.run_dir import METRICS, Interrupt, Run
from diffpo.statistics.frontier import aup

TASK = "threads = 1\ntask = {kind = 'sudoku', min_clues = 13, max_clues = 15, cell_credit = 0.5}\n"
BUDGET = 1500
RL = f"""{TASK}
base = "overridden"
rollout = {{prompts_per_step = 2, group_size = 4}}
budget.denoiser_calls = {BUDGET}
checkpoint.every = 5
"""
RECIPES = {
    "sft/sudoku4-base": f"""{TASK}
        batch = 32
        steps = 100
        weighting = "uniform"
        model = {{d_model = 32, n_layers = 2, n_heads = 2, mlp_hidden_size = 48}}
        optimizer.lr = 0.01
        """,
    "rl/tiny-d1": f"{RL}\nestimator.kind = 'mean-field'",
    "rl/tiny-diffpo": f"{RL}\ntrain = 'joint'\nobjective.nfe_penalty = 0.5",
    "eval/sudoku4-eval": f"{TASK}\nmodel = 'overridden'\ncount = 20\nbounds = [0.0, 1.0, 100.0]\nvalidation_count = 12",
}
POINT = {"rule", "accuracy", "ci95", "nfe", "n"}


@dataclass
class Observed:
    """What was seen of a demo that was interrupted once and went on."""

    out: Path
    commands: list[list[str]] = field(default_factory=list)
    processes: list[Forked] = field(default_factory=list)
    is_interrupted: bool = False
    left_running: int = 0
    base_when_interrupted: Mapping[Path, int] = field(default_factory=dict)
    steps_when_interrupted: Mapping[str, int] = field(default_factory=dict)
    seconds_when_interrupted: float = 0.0

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "summary.json").read_text())
        return found

    def calls_of(self, arm: str) -> list[int]:
        return [json.loads(line)["denoiser_calls"] for line in (self.out / arm / METRICS).read_text().splitlines()]


def times_of(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != METRICS}


def built_in(recipes: Path) -> SimpleNamespace:
    return SimpleNamespace(files=lambda _: recipes)


def run_arm(recipes: Path, arguments: list[str]) -> None:
    """Run `diffpo` with tiny recipes; a run, unless it is resumed, waits after its first step for Ctrl-C."""
    log = Run.log

    def log_and_wait(self: Run, step: int, metrics: dict[str, float]) -> None:
        log(self, step, metrics)
        while self.checkpoint is None and not cast(Interrupt, signal.getsignal(signal.SIGINT)).requested:
            time.sleep(0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "resources", built_in(recipes))
        patch.setattr(Run, "log", log_and_wait)
        main(arguments)


@pytest.fixture(scope="module")
def tiny_recipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The built-in recipes, the demo's ones tiny: for the arms, which are processes, and for this process."""
    recipes = tmp_path_factory.mktemp("package") / "recipes"
    shutil.copytree(Path(files.__file__).parent, recipes)
    for name, text in RECIPES.items():
        (recipes / f"{name}.toml").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "resources", built_in(recipes))
        yield recipes


@pytest.fixture(scope="module")
def observed(tiny_recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """Interrupt a demo when both arms have done a step; then give the same command again."""
    seen = Observed(tmp_path_factory.mktemp("demo") / 'a "demo"')

    def start(command: list[str], stdout: BinaryIO, stderr: BinaryIO) -> Forked:
        seen.commands.append(command)
        out, errors = Path(stdout.name), Path(stderr.name)
        seen.processes.append(Forked(run_arm, tiny_recipes, command[3:], stdout=out, stderr=errors))
        return seen.processes[-1]

    def sleep_then_interrupt(_: float) -> None:
        """Ctrl-C in a terminal: the signal reaches every process of the group."""
        if seen.is_interrupted:
            return time.sleep(0.1)
        while not all((seen.out / arm / METRICS).exists() for arm in demo.RL_ARMS):
            assert all(process.poll() is None for process in seen.processes)
            time.sleep(0.01)
        seen.is_interrupted = True
        for process in seen.processes:
            if os.getpgid(process.pid) == os.getpgid(0):
                process.send_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    def clock(sleep: Any) -> SimpleNamespace:
        return SimpleNamespace(sleep=sleep, perf_counter=time.perf_counter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "subprocess", SimpleNamespace(Popen=start))
        patch.setattr(demo, "time", clock(sleep_then_interrupt))
        try:
            with pytest.raises(Stopped, match="the same command goes on"):
                demo.run_demo(seen.out, seed=3)
            seen.left_running = sum(process.poll() is None for process in seen.processes)
        finally:
            for process in seen.processes:
                process.kill()
                process.wait()
        seen.base_when_interrupted = times_of(seen.out / "base")
        seen.steps_when_interrupted = {arm: len(seen.calls_of(arm)) for arm in demo.RL_ARMS}
        seen.seconds_when_interrupted = json.loads((seen.out / "clock.json").read_text())["seconds"]

        patch.setattr(demo, "time", clock(lambda _: time.sleep(0.1)))
        demo.run_demo(seen.out, seed=3)
    return seen


def test_an_interrupted_demo_leaves_nothing_running(observed: Observed) -> None:
    assert observed.left_running == 0


def test_it_goes_on_where_it_was(observed: Observed) -> None:
    """The base is left alone; both arms resume, from a checkpoint written when they were interrupted."""
    assert times_of(observed.out / "base") == observed.base_when_interrupted
    trained = observed.commands[:4]
    assert ["--resume" in command for command in trained] == [False, False, True, True]
    assert [process.returncode for process in observed.processes] == [130, 130, *[0] * 5]
    for arm, steps in observed.steps_when_interrupted.items():
        assert steps == 1 < len(observed.calls_of(arm))
    assert observed.summary["wall_s"] > round(observed.seconds_when_interrupted, 1)


def test_the_arms_are_the_commands_that_a_user_would_type(observed: Observed) -> None:
    for arm, command in zip(demo.RL_ARMS, observed.commands, strict=False):
        assert command[:5] == [sys.executable, "-m", "diffpo", "rl", f"tiny-{arm}"]
        assert "seed=3" in command
        assert command[command.index("--out") + 1] == str(observed.out / arm)
    evaluations = observed.commands[4:]
    assert [command[:4] for command in evaluations] == [[sys.executable, "-m", "diffpo", "eval"]] * 3
    assert {command[4] for command in evaluations} == {str(observed.out / arm) for arm in demo.ARMS}
    assert all("seed=3" in command for command in evaluations)


def test_the_same_scale_for_all_arms(observed: Observed) -> None:
    """AUP of each is that of its points, scaled by the best accuracy of any."""
    records = [json.loads((observed.out / "eval" / f"{arm}.json").read_text()) for arm in demo.ARMS]
    best = max(point["accuracy"] for record in records for point in record["points"])
    assert best > 0
    for record in records:
        points = record["points"]
        tokens, percent = (
            np.array(column) for column in zip(*((16 / p["nfe"], 100 * p["accuracy"]) for p in points), strict=True)
        )
        expected = aup(tokens, percent, 100 * best)
        assert record["aup"]["value"] == pytest.approx(expected)


def test_the_summary_has_its_shape(observed: Observed) -> None:
    summary = observed.summary
    assert set(summary) == {"seed", "wall_s", "arms"}
    assert summary["seed"] == 3
    assert list(summary["arms"]) == ["base", "d1", "diffpo"]
    for name, arm in summary["arms"].items():
        learned = {"learned", "gain", "validated_gain"} if name == "diffpo" else set()
        # What more there is, is there for the table that the demo prints.
        assert set(arm) == {"frontier", "train_denoiser_calls", "area", "aup", "validation"} | learned
        rules = [point["rule"] for point in arm["frontier"]]
        assert [point["rule"] for point in arm["validation"]["frontier"]] == rules
        assert {point["n"] for point in arm["validation"]["frontier"]} == {12}
        assert (arm["validation"]["learned"] is not None) == bool(learned)
        assert {constant["rule"] for constant in arm["validation"]["best_constants"]} <= set(rules)
        assert [set(point) for point in arm["frontier"]] == [POINT] * 3
        assert [point["rule"] for point in arm["frontier"]] == [f"entropy bound {bound}" for bound in (0, 1, 100)]
        for point in (*arm["frontier"], *([arm["learned"]] if learned else [])):
            assert 0 <= point["ci95"][0] <= point["accuracy"] <= point["ci95"][1] <= 1
            assert 1 <= point["nfe"] <= 16
            assert point["n"] == 20
    assert set(summary["arms"]["diffpo"]["learned"]) == POINT - {"rule"}
    assert summary["arms"]["diffpo"]["validated_gain"]["rule"] in rules


def test_both_arms_had_the_same_denoiser_calls(observed: Observed) -> None:
    found = observed.summary["arms"]
    logged = {arm: observed.calls_of(arm) for arm in demo.RL_ARMS}
    largest = max(after - before for calls in logged.values() for before, after in pairwise(calls))
    for arm, calls in logged.items():
        assert found[arm]["train_denoiser_calls"] == calls[-1]
        assert calls[-2] < BUDGET <= calls[-1]
    assert abs(found["d1"]["train_denoiser_calls"] - found["diffpo"]["train_denoiser_calls"]) <= largest
    assert found["base"]["train_denoiser_calls"] == 100 * 32


def test_every_piece_is_there(observed: Observed) -> None:
    page = (observed.out / "report.html").read_text()
    assert page.startswith("<!") and "</html>" in page
    assert (observed.out / "frontier.svg").read_text().lstrip().startswith(("<svg", "<?xml"))
    run = read_run(observed.out)
    assert [arm.name for arm in run.arms] == ["base", "d1", "diffpo"]
    assert run.seed == 3
    for arm in run.arms:
        assert arm.metrics and arm.playback
        assert (arm.learned is not None) == (arm.name == "diffpo")
    records = [json.loads((observed.out / "eval" / f"{arm}.json").read_text()) for arm in demo.ARMS]
    assert records[0]["clusters"] == records[1]["clusters"] == records[2]["clusters"]


def test_the_arms_started_from_the_base(observed: Observed) -> None:
    for arm in demo.RL_ARMS:
        recipe = tomllib.loads((observed.out / arm / "recipe.toml").read_text())
        assert recipe["base"] == str(observed.out / "base")
        assert recipe["seed"] == 3
        assert len(checkpoints(observed.out / arm)) > 0


# -------------------------------------------------------------------------------------------------------- its folder


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for demos that end before they have trained anything."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "train_base", interrupted)
    return tmp_path / "demo"


def begin(out: Path, seed: int) -> None:
    with pytest.raises((KeyboardInterrupt, Stopped)):  # a bare KeyboardInterrupt would end all tests
        demo.run_demo(out, seed)


def test_whatever_was_interrupted_it_is_the_demo_that_goes_on(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise Stopped("stopped at step 7; go on with the same command and --resume")

    monkeypatch.setattr(demo, "train_base", stopped)
    with pytest.raises(Stopped, match="the same command goes on where it was"):
        demo.run_demo(begun, seed=0)


def test_a_finished_demo_is_kept_under_another_name(begun: Path) -> None:
    for name in ("demo.1", "demo.2"):
        begin(begun, seed=0)
        (begun / "summary.json").write_text(name)
    begin(begun, seed=0)
    assert sorted(path.name for path in begun.parent.iterdir()) == ["demo", "demo.1", "demo.2"]
    for name in ("demo.1", "demo.2"):
        assert (begun.parent / name / "summary.json").read_text() == name
    assert not (begun / "summary.json").exists()


def test_a_demo_of_another_seed_begins_anew(begun: Path) -> None:
    begin(begun, seed=0)
    begin(begun, seed=0)
    assert not begun.with_name("demo.1").exists()
    begin(begun, seed=1)
    assert json.loads((begun.with_name("demo.1") / "clock.json").read_text())["seed"] == 0
    assert json.loads((begun / "clock.json").read_text())["seed"] == 1


def test_an_arm_that_fails_is_told_with_its_log(
    tiny_recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DIFFPO", ("false",))
    with pytest.raises(RuntimeError, match=r"d1 failed \(see .*d1\.log\)"):
        demo.train_and_evaluate(tmp_path, seed=0)
