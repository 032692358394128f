"""Rewards and graders that are slow, crash or get stuck: the run goes on, or ends in one sentence (docs/tasks.md).

A reward of the user's runs in the training process. Where it raises, the completion earns nothing; where it ends the
process, the run goes on from its last checkpoint. The symbolic grader has a process of its own, which may be lost.
"""

import json
import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from diffpo.cli.main import main as diffpo
from diffpo.grading import symbolic
from diffpo.grading.symbolic import compare_latex
from diffpo.recipes import dump_recipe
from diffpo.runs.progress import ProgressBar
from tests.helpers.forked import Forked
from tests.helpers.tiny_runs import lines_of, rl_recipe, snapshot
from tests.torture.kills import NOWHERE, PATIENCE, newest_whole_step

REWARDS = '''"""Rewards that differ in how they fail, and pay the same where they do not."""

import asyncio
import os
import sys
import time
from pathlib import Path

CALLS = Path(__file__).with_suffix(".calls")


def pays(completions):
    return [float(text[:1] == "1") for text in completions]


def sleeps(completions):
    time.sleep(0.3)
    return pays(completions)


def never_returns(completions):
    while True:
        try:
            pays(completions)
        except Exception:
            pass


async def waits(completions):
    while "1" not in completions[0][:4]:
        await asyncio.sleep(1)
    return pays(completions)


def exits(completions):
    """End the process at its second call of all, as a crash of a library in C does."""
    CALLS.write_text(CALLS.read_text() + "x" if CALLS.exists() else "x")
    if CALLS.read_text() == "xx":
        os._exit(3)
    return pays(completions)


def recurses(completions):
    return recurses(completions)


def fills_memory(completions):
    return [bytearray(2**60)]


def quits(completions):
    sys.exit(0)


def sometimes_raises(completions):
    if "2" in completions[0][:4]:
        raise RuntimeError("\\\\x1b[2J it does not like twos")
    return pays(completions)


def returns_text(completions):
    return "1" * len(completions)


def never_a_number(completions):
    return [float("nan")] * len(completions)
'''

SURVIVED, ALIKE, REFUSED = "goes on", "ends alike", "one sentence"
REWARD_CASES = (
    ("sleeps", ALIKE),
    ("exits", ALIKE),
    ("sometimes_raises", SURVIVED),
    ("waits", SURVIVED),
    ("never_returns", REFUSED),
    ("recurses", REFUSED),
    ("fills_memory", REFUSED),
    ("quits", REFUSED),
    ("returns_text", REFUSED),
    ("never_a_number", REFUSED),
)
"""What a run with this reward comes to: the same as without the fault, any end with code 0, or exit code 2."""


def torture_by_rewards(base: Path, folder: Path) -> tuple[int, int]:
    """Train with each of the rewards; return how many there were, and how many ended as they should."""
    rewards = folder / "rewards.py"
    rewards.write_text(REWARDS)
    expected = None
    good = 0
    with ProgressBar("rewards", len(REWARD_CASES), unit="reward") as bar:
        for number, (name, outcome) in enumerate([("pays", SURVIVED), *REWARD_CASES]):
            out, errors = folder / f"reward-{name}", folder / f"reward-{name}.err"
            code = run_with_reward(base, f"{rewards}:{name}", out, errors)
            told = errors.read_text().splitlines()
            if name == "pays":
                expected = snapshot(out)
                continue
            match outcome:
                case "ends alike":
                    is_good = code == 0 and rewards_unnamed(snapshot(out)) == rewards_unnamed(expected or {})
                case "one sentence":
                    is_good = code == 2 and told[:1] != [] and told[0].startswith("diffpo: the grader failed on all")
                case _:
                    is_good = code == 0 and sum(line.get("grader_failed", 0) for line in lines_of(out)) > 0
            if not is_good or any("\x1b" in line for line in told):
                bar.warn(f"{name}: exit code {{code}}, {{told}}", code=code, told=" / ".join(told[:3]))
            good += is_good
            bar.update(number, good=good)
    return len(REWARD_CASES), good


def run_with_reward(base: Path, reward: str, out: Path, errors: Path) -> int:
    """Train three steps, and go on where the process was ended; return the last exit code."""
    recipe = out.with_suffix(".toml")
    given = ("budget.steps=3", "checkpoint.every=1", "train=policy", "task.reward_seconds=1")
    own = f"task.reward={json.dumps(reward)}"
    recipe.write_text(dump_recipe(rl_recipe(base, *given, own)))
    command = ["rl", str(recipe), "--out", str(out), "--resume", "auto"]
    code = Forked(diffpo, command, stdout=NOWHERE, stderr=errors).wait(PATIENCE)
    if code == 3 and newest_whole_step(out) >= 0:
        code = Forked(diffpo, command, stdout=NOWHERE, stderr=errors).wait(PATIENCE)
    return code


def rewards_unnamed(found: dict[str, object]) -> dict[str, object]:
    """Return a snapshot without the names of rewards in its log."""
    log = found.get("log")
    lines = [
        {key: value for key, value in line.items() if not key.startswith("rewards/")}
        for line in (log if isinstance(log, list) else [])
    ]
    return found | {"log": lines}


# ------------------------------------------------------------------------------------------------- the symbolic worker


def torture_the_worker(count: int, seed: int) -> tuple[int, int]:
    """Harm the symbolic worker so many times; return how many times, and how often the answer after it was right.

    What it is asked meanwhile may fail, but must be answered, and never by "equal" where it is not.
    """
    draw, right = random.Random(seed), 0
    harms: Sequence[Callable[[], bool]] = (_kill, _stop, _bomb, _bad_line)
    with ProgressBar("symbolic worker", count, unit="harm") as bar:
        for number in range(count):
            is_answered = harms[number % len(harms)]()
            answers = [compare_latex("x+y", "y+x"), compare_latex("x+y", f"x+{draw.randint(2, 9)}y")]
            if answers[0] == "failed":  # the one that was asked of a dead worker
                answers[0] = compare_latex("x+y", "y+x")
            right += is_answered and answers == ["equal", "different"]
            bar.update(number + 1, right=right)
    return count, right


def _worker_process() -> int | None:
    compare_latex("x+y", "y+x")
    worker = symbolic._pool.worker
    return worker.process.pid if worker is not None and worker.is_mine else None


def _kill() -> bool:
    if (pid := _worker_process()) is not None:
        os.kill(pid, signal.SIGKILL)
    return compare_latex("x+y", "y-x") in ("different", "failed")


def _stop() -> bool:
    """Let the worker hang without using processor time, as on a machine that is out of memory."""
    pid = _worker_process()
    with pytest.MonkeyPatch.context() as patch:
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
        patch.setattr(symbolic, "WALL_SECONDS", 0.5)
        verdict = compare_latex("x+y", "y+x")
    with suppress(ProcessLookupError):
        if pid is not None:
            os.kill(pid, signal.SIGCONT)
    return verdict == "failed"


def _bomb() -> bool:
    return compare_latex("x^2", "9^{9^{9^9}}") in ("unparseable", "different")


def _bad_line() -> bool:
    """Answers that would be lines of the protocol, if they were not escaped."""
    return compare_latex("x+y", 'z"]\n["x", "x"]') != "equal" and compare_latex("x+y", "equal\ngold\nequal") != "equal"
