"""Kill runs at random moments and flip bits of their checkpoints: nothing is lost, and nothing damaged is used.

`make torture` does a hundred of each, the tests a handful. The last line says what came of it:
`kills N resumed N, flips N detected N`.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpo.cli.main import main as diffpo
from diffpo.core.errors import UserError
from diffpo.models.manifest import whole_folder
from diffpo.models.model_paths import checkpoints
from diffpo.recipes import dump_recipe
from diffpo.runs.checkpoint import problems_on_resume
from diffpo.runs.progress import ProgressBar
from diffpo.runs.run_dir import Run
from tests.helpers.forked import Forked
from tests.helpers.tiny_runs import GREEDY_STAGE, rl_recipe, sft_recipe, snapshot

MOMENTS: tuple[tuple[Any, str], ...] = (
    *((os, name) for name in ("fsync", "replace", "unlink", "rmdir")),
    *((Path, name) for name in ("mkdir", "rename", "write_text")),
    *((torch, "save"), (Run, "log")),
)
"""What a run does to its folder; it is killed before or after one of them, or by the clock."""


@dataclass(frozen=True)
class Case:
    """A command whose run is killed, and what it comes to undisturbed."""

    command: Sequence[str]
    """Without `--out`."""
    expected: dict[str, Any]
    moments: int
    seconds: float


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
    nowhere = Path(os.devnull)
    Forked(run_undisturbed, [*command, "--out", str(out)], counted, stdout=nowhere, stderr=nowhere).wait()
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


def kill_and_resume(case: Case, out: Path, draw: random.Random) -> bool:
    """Kill a run once or twice, let it go on, and return whether it ended bit for bit as the undisturbed one."""
    command = [*case.command, "--out", str(out), "--resume", "auto"]
    nowhere, errors = Path(os.devnull), out.with_suffix(".err")
    for _ in range(draw.choice((1, 2))):
        if draw.random() < 0.7:
            moment = draw.randint(1, case.moments)
            Forked(run_killed_at, moment, command, stdout=nowhere, stderr=errors).wait()
        else:
            process = Forked(diffpo, command, stdout=nowhere, stderr=errors)
            time.sleep(draw.uniform(0, case.seconds))
            process.kill()
            process.wait()
    Forked(diffpo, command, stdout=nowhere, stderr=errors).wait()
    hidden = [path.name for path in out.iterdir() if path.name.startswith(".")]
    return not hidden and snapshot(out) == case.expected and not errors.read_text()


def flip(file: Path, draw: random.Random) -> Callable[[], None]:
    """Flip one bit of a file; return what puts it back."""
    content = file.read_bytes()
    at = draw.randrange(len(content))
    file.write_bytes(content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])

    def put_back() -> None:
        file.write_bytes(content)

    return put_back


def is_detected(run: Path) -> bool:
    """Return whether both `--resume` and `load` see that the newest checkpoint of a run is damaged."""
    newest = checkpoints(run)[-1]
    try:
        whole_folder(newest)
    except UserError:
        return bool(problems_on_resume(newest))
    return False


def torture(folder: Path, kills: int, flips: int, seed: int) -> str:
    """Do so many of each in a folder; return the line that says what came of it."""
    draw = random.Random(seed)
    found = cases(folder)
    resumed = detected = 0
    with ProgressBar("torture", kills + flips) as bar:
        for number in range(kills):
            out = folder / f"killed-{number}"
            if kill_and_resume(found[number % len(found)], out, draw):
                resumed += 1
                shutil.rmtree(out)
            bar.update(number + 1, resumed=resumed)
        run = folder / "rl" / "straight"
        files = sorted(path for path in checkpoints(run)[-1].rglob("*") if path.is_file())
        for number in range(flips):
            put_back = flip(files[number % len(files)], draw)
            detected += is_detected(run)
            put_back()
            bar.update(kills + number + 1, detected=detected)
    return f"kills {kills} resumed {resumed}, flips {flips} detected {detected}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    told = torture(folder, asked.kills, asked.flips, asked.seed)
    is_good = told == f"kills {asked.kills} resumed {asked.kills}, flips {asked.flips} detected {asked.flips}"
    if is_good:
        shutil.rmtree(folder)
    else:
        print(f"what failed is in {folder}")
    print(told)
    sys.exit(not is_good)


if __name__ == "__main__":
    from tests.helpers import torture as module  # under its name, by which other processes know its functions

    module.main()
