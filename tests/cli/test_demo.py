"""The demo from end to end on tiny recipes: interrupted, gone on with, summed up, and kept when another one starts."""

import json
import os
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from tests.helpers.forked import Forked

from diffpo.cli import demo, demo_arms, job_queue
from diffpo.cli.main import main
from diffpo.core.errors import Stopped
from diffpo.models.manifest import CARD
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.recipes import files
from diffpo.report.sources import read_run
from diffpo.runs.interrupt import Interrupt
from diffpo.runs.run_dir import Run
from diffpo.statistics.frontier import aup

TASK = "threads = 1\ntask = {kind = 'sudoku', min_clues = 13, max_clues = 15, cell_credit = 0.5}\n"
CALLS, SAMPLER_CALLS = 1500, 300
RL = f"""{TASK}
base = "overridden"
checkpoint.every = 5
rollout.prompts_per_step = 2
rollout.group_size = 4
"""
RECIPES = {
    "sft/sudoku4-shallow": f"""{TASK}
        batch = 32
        steps = 100
        weighting = "uniform"
        model = {{d_model = 32, n_layers = 2, n_heads = 2, mlp_hidden_size = 48}}
        optimizer.lr = 0.01
        """,
    "rl/tiny-d1": f"{RL}\nrollout.rule.kind = 'entropy-bound'\nestimator.kind = 'mean-field'",
    "rl/tiny-diffpo": f"{RL}\ntrain = 'joint'\nobjective.nfe_penalty = 0.5",
    "rl/tiny-any-speed": f"{RL}\nrollout.speeds = {{low = 0.02, high = 10.0}}",
    "sampler/tiny-sampler": """
        base = 'overridden'
        threads = 1
        fit = {width = 8, steps = 5}
        bounds = [0.0, 1.0, 100.0]
        risk_bounds = [0.1, 1.0]
        """,
    "eval/sudoku4-shallow-eval": f"""{TASK}
        model = 'overridden'
        count = 20
        bounds = [0.0, 1.0, 100.0]
        validation_count = 12
        """,
}
POINT = {"rule", "accuracy", "ci95", "nfe", "n"}
FIRST = ("d1", "any-speed")
"""The arms that are trained first, each on its core."""


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
    written_later = (METRICS, CARD)  # evaluating a model adds to its card
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in written_later]
    return {path: path.stat().st_mtime_ns for path in files}


def built_in(recipes: Path) -> SimpleNamespace:
    return SimpleNamespace(files=lambda _: recipes)


def run_arm(recipes: Path, arguments: list[str]) -> None:
    """Run `diffpo` with tiny recipes; one of the first arms, unless it is resumed, waits after a step for Ctrl-C."""
    log = Run.log

    def log_and_wait(self: Run, step: int, metrics: dict[str, float]) -> None:
        log(self, step, metrics)
        must_wait = self.path.name in FIRST and self.checkpoint is None
        while must_wait and not cast(Interrupt, signal.getsignal(signal.SIGINT)).requested:
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
        patch.setattr(demo_arms, "TASK", ())
        patch.setattr(demo_arms, "SAMPLER_OVERRIDES", (f"states={{denoiser_calls={SAMPLER_CALLS}, batch=8}}",))
        for name, arm in demo_arms.RL_ARMS.items():
            calls = CALLS - SAMPLER_CALLS if name == "any-speed" else CALLS
            patch.setitem(demo_arms.RL_ARMS, name, replace(arm, calls=calls))
        yield recipes


@pytest.fixture(scope="module")
def observed(tiny_recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """Interrupt a demo when both arms have done a step; then give the same command again."""
    seen = Observed(tmp_path_factory.mktemp("demo") / 'a "demo"')

    def start(command: list[str], stdout: BinaryIO, stderr: BinaryIO, env: dict[str, str]) -> Forked:
        seen.commands.append(command)
        out, errors = Path(stdout.name), Path(stderr.name)
        seen.processes.append(Forked(run_arm, tiny_recipes, command[3:], stdout=out, stderr=errors))
        return seen.processes[-1]

    def sleep_then_interrupt(_: float) -> None:
        """Ctrl-C in a terminal: the signal reaches every process of the group."""
        if seen.is_interrupted:
            return time.sleep(0.1)
        while not all((seen.out / arm / METRICS).exists() for arm in FIRST):
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
        patch.setattr(job_queue, "subprocess", SimpleNamespace(Popen=start))
        patch.setattr(job_queue, "time", clock(sleep_then_interrupt))
        try:
            with pytest.raises(Stopped, match="the same command goes on"):
                demo.run_demo(seen.out, seed=3)
            seen.left_running = sum(process.poll() is None for process in seen.processes)
        finally:
            for process in seen.processes:
                process.kill()
                process.wait()
        seen.base_when_interrupted = times_of(seen.out / "base")
        seen.steps_when_interrupted = {arm: len(seen.calls_of(arm)) for arm in FIRST}
        seen.seconds_when_interrupted = json.loads((seen.out / "clock.json").read_text())["seconds"]

        patch.setattr(job_queue, "time", clock(lambda _: time.sleep(0.1)))
        demo.run_demo(seen.out, seed=3)
    return seen


def test_an_interrupted_demo_leaves_nothing_running(observed: Observed) -> None:
    assert observed.left_running == 0


def test_it_goes_on_where_it_was(observed: Observed) -> None:
    """The base is left alone; what was interrupted resumes, from a checkpoint written then, and the rest follows."""
    assert times_of(observed.out / "base") == observed.base_when_interrupted
    goes_on = [command[-2:] == ["--resume", "auto"] for command in observed.commands]
    assert goes_on == [command[3] == "rl" for command in observed.commands]
    assert [command[4] for command in observed.commands[:4]] == ["tiny-d1", "tiny-any-speed"] * 2
    assert [process.returncode for process in observed.processes] == [130, 130, *[0] * 8]
    for arm, steps in observed.steps_when_interrupted.items():
        assert steps == 1 < len(observed.calls_of(arm))
    assert observed.summary["wall_s"] > round(observed.seconds_when_interrupted, 1)


def test_the_arms_are_the_commands_that_a_user_would_type(observed: Observed) -> None:
    commands = {command[command.index("--out") + 1]: command for command in observed.commands[2:]}
    assert len(commands) == 8 and all(command[:3] == [sys.executable, "-m", "diffpo"] for command in commands.values())
    for arm in demo_arms.RL_ARMS:
        command = commands[str(observed.out / arm)]
        assert command[3:5] == ["rl", f"tiny-{arm}"]
    sampler = commands[str(observed.out / "sampler")]
    assert sampler[3:5] == ["sampler", str(observed.out / "any-speed")]
    for arm in demo_arms.ARMS:
        command = commands[str(observed.out / "eval" / f"{arm}.json")]
        assert command[3:5] == ["eval", str(observed.out / arm)]
    assert all("seed=3" in command for command in commands.values())


def test_the_same_scale_for_all_arms(observed: Observed) -> None:
    """AUP of each is that of its points, scaled by the best accuracy of any."""
    records = [json.loads((observed.out / "eval" / f"{arm}.json").read_text()) for arm in demo_arms.ARMS]
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
    assert set(summary) == {"seed", "wall_s", "arms", "compared"}
    assert summary["seed"] == 3
    assert list(summary["arms"]) == ["base", "d1", "diffpo", "sampler"]
    more = {"diffpo": {"learned", "gain", "validated_gain"}, "sampler": {"price_curve"}}
    for name, arm in summary["arms"].items():
        learned = name == "diffpo"
        # What more there is, is there for the table that the demo prints.
        known = {"frontier", "train_denoiser_calls", "area", "aup", "validation"}
        assert set(arm) == known | more.get(name, set())
        rules = [point["rule"] for point in arm["frontier"]]
        assert [point["rule"] for point in arm["validation"]["frontier"]] == rules
        assert {point["n"] for point in arm["validation"]["frontier"]} == {12}
        assert (arm["validation"]["learned"] is not None) == learned
        assert {constant["rule"] for constant in arm["validation"]["best_constants"]} <= set(rules)
        assert [set(point) for point in arm["frontier"]] == [POINT] * 3
        assert [point["rule"] for point in arm["frontier"]] == [f"entropy bound {bound}" for bound in (0, 1, 100)]
        for point in (*arm["frontier"], *([arm["learned"]] if learned else [])):
            assert 0 <= point["ci95"][0] <= point["accuracy"] <= point["ci95"][1] <= 1
            assert 1 <= point["nfe"] <= 16
            assert point["n"] == 20
    assert set(summary["arms"]["diffpo"]["learned"]) == POINT - {"rule"}
    assert summary["arms"]["diffpo"]["validated_gain"]["rule"] in rules


def test_the_summary_says_what_each_price_buys(observed: Observed) -> None:
    curve = observed.summary["arms"]["sampler"]["price_curve"]
    assert set(curve) == {"points", "prices", "area", "area_gain"}
    assert curve["points"] and all(set(point) == POINT for point in curve["points"])
    assert [found["price"] for found in curve["prices"]] == [0.0, 0.1, 0.3, 1.0]
    for found in curve["prices"]:
        assert {name: value for name, value in found.items() if name != "price"} in curve["points"]
    assert set(curve["area"]) == set(curve["area_gain"]) == {"value", "ci95"}


def test_our_frontier_is_compared_with_each_other_arm(observed: Observed) -> None:
    """The figures are those of the records: of the sampler's rules, against all rules of the other arm."""
    records = {arm: json.loads((observed.out / "eval" / f"{arm}.json").read_text()) for arm in demo_arms.ARMS}
    compared = observed.summary["compared"]
    assert list(compared) == ["base", "d1", "diffpo"]

    def best_within(points: list[dict[str, Any]], calls: float) -> float:
        return max((point["accuracy"] for point in points if point["nfe"] <= calls), default=0.0)

    for arm, found in compared.items():
        theirs = [*records[arm]["points"], *filter(None, [records[arm]["learned"]])]
        assert [row["nfe"] for row in found["accuracy"]] == list(range(1, 17))
        for row in found["accuracy"]:
            ours = best_within(records["sampler"]["price_curve"]["points"], row["nfe"])
            assert row["value"] == pytest.approx(ours - best_within(theirs, row["nfe"]))
            assert row["ci95"][0] <= row["value"] <= row["ci95"][1]
        if not records[arm]["learned"]:
            areas = records["sampler"]["price_curve"]["area"]["value"], records[arm]["area"]["value"]
            assert found["area"]["value"] == pytest.approx(areas[0] - areas[1])


def test_all_arms_had_the_same_denoiser_calls(observed: Observed) -> None:
    found = observed.summary["arms"]
    logged = {arm: observed.calls_of(arm) for arm in (*demo_arms.RL_ARMS, "sampler")}
    for arm in demo_arms.RL_ARMS:
        calls, budget = logged[arm], CALLS - SAMPLER_CALLS if arm == "any-speed" else CALLS
        assert calls[-2] < budget <= calls[-1]
    for arm in ("d1", "diffpo"):
        assert found[arm]["train_denoiser_calls"] == logged[arm][-1]
    assert found["sampler"]["train_denoiser_calls"] == logged["any-speed"][-1] + logged["sampler"][-1]
    assert SAMPLER_CALLS <= logged["sampler"][-1] < SAMPLER_CALLS + 8 * 16
    assert found["base"]["train_denoiser_calls"] == 100 * 32


def test_every_piece_is_there(observed: Observed) -> None:
    page = (observed.out / "report.html").read_text()
    assert page.startswith("<!") and "</html>" in page
    assert "the area under the frontier of any-speed is" in page
    picture = (observed.out / "frontier.svg").read_text()
    assert picture.lstrip().startswith(("<svg", "<?xml")) and "not evaluated" not in picture
    run = read_run(observed.out)
    assert [arm.name for arm in run.arms] == ["base", "d1", "DiFFPO", "any-speed"]
    assert run.seed == 3 and run.main == "any-speed" and run.notes == ()
    for arm in run.arms:
        assert len(arm.metrics) > 1 and arm.playback and arm.is_evaluated
        assert (arm.learned is not None) == (arm.name == "DiFFPO")
        assert (arm.price_curve is not None) == (arm.name == "any-speed")
    assert {("diffpo" if name == "DiFFPO" else name): vars(found.area) for name, found in run.compared.items()} == {
        name: {"value": found["area"]["value"], "ci95": tuple(found["area"]["ci95"])}
        for name, found in observed.summary["compared"].items()
    }, "what the page compares is what the summary says"
    records = [json.loads((observed.out / "eval" / f"{arm}.json").read_text()) for arm in demo_arms.ARMS]
    assert all(record["clusters"] == records[0]["clusters"] for record in records)


def test_the_arms_started_from_the_base(observed: Observed) -> None:
    for arm in demo_arms.RL_ARMS:
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
    monkeypatch.setattr(demo_arms, "DIFFPO", ("false",))
    with pytest.raises(RuntimeError, match=r"d1 failed \(see .*d1\.log\)"):
        demo.train_and_evaluate(tmp_path, seed=0)
