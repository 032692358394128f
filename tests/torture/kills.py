"""Kill runs at random moments, within saves too: no checkpoint is lost, and the runs end as if undisturbed."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpo.cli.main import main as diffpo
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.recipes import dump_recipe
from diffpo.runs.checkpoint_folders import tidy
from diffpo.runs.progress import ProgressBar
from diffpo.runs.resume import problems_on_resume
from diffpo.runs.run_dir import Run
from tests.helpers.forked import Forked
from tests.helpers.tiny_runs import GREEDY_STAGE, rl_recipe, sft_recipe, snapshot

MOMENTS: tuple[tuple[Any, str], ...] = (
    *((os, name) for name in ("fsync", "replace", "unlink", "rmdir")),
    *((Path, name) for name in ("mkdir", "rename", "write_text")),
    *((torch, "save"), (Run, "log")),
)
"""What a run does to its folder; it is killed before or after one of them, or by the clock."""
NOWHERE = Path(os.devnull)
PATIENCE = 3600.0
"""Seconds for a run of a few steps, on a machine that may be busy with other things."""


@dataclass(frozen=True)
class Case:
    """A command whose run is killed, and what it comes to undisturbed."""

    command: Sequence[str]
    """Without `--out`."""
    expected: dict[str, Any]
    moments: int
    seconds: float


@dataclass
class Kills:
    """What came of killing runs."""

    killed: int = 0
    """Runs that were killed, each once or twice."""
    resumed: int = 0
    """Of those, the ones that ended bit for bit as the undisturbed run, with nothing left behind."""
    lost: int = 0
    """Checkpoints that stood before a kill, or should have, and were not there whole after it."""


@contextmanager
def at_every_moment(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` before and after each of MOMENTS."""

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            action()
            result = call(*arguments, **options)
            action()
            return result

        return called

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in MOMENTS:
            patch.setattr(owner, name, around(getattr(owner, name)))
        yield


def run_killed_at(moment: int, command: Sequence[str]) -> None:
    """Run a command, which ends by SIGKILL at its moment of that number."""
    left = moment

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)

    with at_every_moment(count_down):
        diffpo(command)


def run_undisturbed(command: Sequence[str], counted: Path) -> None:
    """Run a command and write down how many moments it had, and how many seconds."""
    moments, started = 0, time.monotonic()

    def count() -> None:
        nonlocal moments
        moments += 1

    with at_every_moment(count), pytest.raises(SystemExit):
        diffpo(command)
    counted.write_text(json.dumps([moments, time.monotonic() - started]))


def prepare(command: Sequence[str], folder: Path) -> Case:
    out, counted = folder / "straight", folder / "counted.json"
    Forked(run_undisturbed, [*command, "--out", str(out)], counted, stdout=NOWHERE, stderr=NOWHERE).wait(PATIENCE)
    moments, seconds = json.loads(counted.read_text())
    return Case(command, snapshot(out), moments, seconds)


def cases(folder: Path) -> list[Case]:
    """An SFT run, and a joint RL run from its model, with a checkpoint at every step; one or two are kept."""
    sft, rl = folder / "sft.toml", folder / "rl.toml"
    sft.write_text(dump_recipe(sft_recipe("steps=6", "checkpoint.every=1", "checkpoint.keep=1")))
    (folder / "sft").mkdir()
    (folder / "rl").mkdir()
    first = prepare(["sft", str(sft)], folder / "sft")
    base = folder / "sft" / "straight"
    rl.write_text(dump_recipe(rl_recipe(base, *GREEDY_STAGE, "budget.steps=4", "checkpoint.every=1")))
    return [first, prepare(["rl", str(rl)], folder / "rl")]


def kill(case: Case, out: Path, draw: random.Random) -> int:
    """Kill a run once or twice; return how many checkpoints were lost by it."""
    command = [*case.command, "--out", str(out), "--resume", "auto"]
    errors, lost, newest = out.with_suffix(".err"), 0, 0
    for _ in range(draw.choice((1, 2))):
        if draw.random() < 0.7:
            moment = draw.randint(1, case.moments)
            Forked(run_killed_at, moment, command, stdout=NOWHERE, stderr=errors).wait(PATIENCE)
        else:
            process = Forked(diffpo, command, stdout=NOWHERE, stderr=errors)
            time.sleep(draw.uniform(0, case.seconds))
            process.kill()
            process.wait(PATIENCE)
        newest, before = newest_whole_step(out), newest
        lost += max(0, before - newest) + max(0, steps_logged(out) - 1 - newest)
    return lost


def newest_whole_step(out: Path) -> int:
    """Return the step of the newest checkpoint that a resumed run can go on from; 0 where there is none.

    A folder of a checkpoint's name that is not whole counts as if it and all before it were lost.
    """
    if not out.exists():
        return 0
    tidy(out)  # as resuming does first
    found = checkpoints(out)
    if any(problems_on_resume(checkpoint) for checkpoint in found):
        return -1
    return int(found[-1].name.rpartition("-")[2]) if found else 0


def steps_logged(out: Path) -> int:
    """Return the last step whose line is whole in the log. Its checkpoint is the next thing that a run writes."""
    log = out / METRICS
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def ends_alike(case: Case, out: Path) -> bool:
    """Let a run go on, and return whether it ends bit for bit as the undisturbed one, without a warning and tidily."""
    command = [*case.command, "--out", str(out), "--resume", "auto"]
    errors = out.with_suffix(".err")
    code = Forked(diffpo, command, stdout=NOWHERE, stderr=errors).wait(PATIENCE)
    hidden = [path.name for path in out.iterdir() if path.name.startswith(".")]
    said = [line for line in errors.read_text().splitlines() if not line.startswith("next: ")]
    return code == 0 and not hidden and snapshot(out) == case.expected and not said


def torture_by_kills(found: Sequence[Case], folder: Path, count: int, seed: int) -> Kills:
    """Kill so many runs and let them go on. What failed stays in the folder."""
    draw, tally = random.Random(seed), Kills()
    with ProgressBar("kills", count, unit="run") as bar:
        for number in range(count):
            case, out = found[number % len(found)], folder / f"killed-{number}"
            tally.killed += 1
            tally.lost += kill(case, out, draw)
            if ends_alike(case, out):
                tally.resumed += 1
                shutil.rmtree(out)
            bar.update(number + 1, resumed=tally.resumed, lost=tally.lost)
    return tally
