"""Grade fuzzed completions: nothing escapes, nothing takes longer or more memory than its limit, nothing wrong is paid.

The cheap graders read all completions; each is also read by d1's scorers, which pay what d1 pays and must only survive.
The symbolic grader is asked in its fenced worker, and counts where the comparison came as far as that.
"""

import json
import math
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

from diffpo.grading import d1, symbolic
from diffpo.grading.arithmetic import Refusal, parse_expression
from diffpo.grading.exact import exact_value
from diffpo.grading.number import parse_answer_number, parse_number
from diffpo.runs.progress import ProgressBar
from diffpo.tasks.base import Grade, Problem
from diffpo.tasks.countdown import Countdown
from diffpo.tasks.families import TASK_FAMILIES
from diffpo.tasks.sudoku import Sudoku, prompt_of
from diffpo.tasks.walk import Walk
from tests.torture.completions import (
    COUNTDOWN,
    NUMBER,
    PUZZLE,
    SOLUTION,
    SYMBOLIC,
    TARGET,
    Completion,
    Kind,
    completion,
)

CPU_SECONDS = 1.0
"""Limit of one reader or grader on one completion, in processor time: a busy machine changes nothing."""
WORKER_SECONDS = 10.0
"""Limit of one comparison in the symbolic worker, in its processor time: it ends after 2, and a new one starts."""
MEMORY_BYTES = 2**28
"""Limit of what a process may grow by while it grades."""
BOMBS = ("9^{9^{9}}", "10^{100000}", "2^{10^{10}}", "1000000!")
"""They keep SymPy busy until it is ended, which costs seconds: one in eight completions with them is graded."""
PER_TASK = 500
"""Completions that a process takes at a time."""

Check = Callable[[Completion], str | None]
"""Grades a completion; returns what is wrong with the grade, if anything is."""


@dataclass
class Tally:
    """What came of grading; tallies of several processes add up."""

    completions: int = 0
    asked: int = 0
    """Comparisons that reached the symbolic worker."""
    wrong: int = 0
    """Pairs of a completion and a gold answer that it is known not to state."""
    paid: int = 0
    """Grades that paid one of them."""
    escaped: int = 0
    """Exceptions that a grader let out, and grades that are none."""
    too_slow: int = 0
    slowest: float = 0.0
    """Processor seconds of one grader on one completion."""
    memory: int = 0
    """Bytes that a process grew by, the most of all."""
    worker_memory: int = 0
    """The most bytes that a symbolic worker had."""
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """A line for each thing that must not be, with the number of the completion."""

    @property
    def is_good(self) -> bool:
        is_small = self.memory <= MEMORY_BYTES and self.worker_memory <= symbolic.MEMORY_BYTES
        return not (self.faults or self.paid or self.escaped or self.too_slow) and is_small

    def add(self, other: "Tally") -> None:
        for name in ("completions", "asked", "wrong", "paid", "escaped", "too_slow"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("slowest", "memory", "worker_memory"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        self.verdicts += other.verdicts
        self.faults += other.faults

    def line(self) -> str:
        return (
            f"exceptions {self.escaped}, too slow {self.too_slow}, wrong {self.wrong} paid {self.paid}, "
            f"slowest {self.slowest:.2f} s, memory {self.memory / 2**20:.0f} MiB"
        )


class _TooSlowError(BaseException):
    """Raised by the clock in the middle of a grader."""


# -------------------------------------------------------------------------------------------------------- cheap graders


def _problem(**facts: int | str) -> Problem:
    return Problem("torture", "?", "", "torture", facts)


def _graded(problem: Problem, kind: Kind | None, *graders: Callable[[Problem, str], Grade]) -> Check:
    """Return a check by the graders in turn, which are one behind the scenes: each reads all that it can."""
    turns = cycle(graders)

    def check(found: Completion) -> str | None:
        return fault_of(next(turns)(problem, found.text), kind, found)

    return check


def fault_of(grade: Grade, kind: Kind | None, found: Completion) -> str | None:
    """Return what is wrong with a grade: `paid` where the completion is known to be wrong for that kind of gold."""
    if grade.status == "grader_failed":
        return "grader_failed on a gold answer that is none of its faults"
    if not math.isfinite(grade.reward) or not all(math.isfinite(part) for part in grade.parts.values()):
        return f"no finite reward: {grade}"
    if grade.status == "unparseable" and grade.is_solved:
        return f"unparseable and solved: {grade}"
    return "paid" if grade.is_solved and kind in found.wrong_for else None


def _read(reader: Callable[[str], Fraction | None]) -> Check:
    def check(found: Completion) -> str | None:
        return "paid" if reader(found.text) == NUMBER and "number" in found.wrong_for else None

    return check


def _expression(found: Completion) -> str | None:
    read = parse_expression(found.text)
    return None if isinstance(read, Refusal) or math.isfinite(read.value) else f"a value that is none: {read}"


def _d1(found: Completion) -> str | None:
    d1.gsm8k_is_right(found.text, float(NUMBER))
    d1.math_is_right(found.text, "\\frac{1}{2}")
    d1.countdown_is_right(found.text, COUNTDOWN, TARGET)
    right, of = d1.sudoku_cells(found.text, PUZZLE, SOLUTION)
    return None if 0 <= right <= of else f"d1 pays {right} of {of} cells"


def cheap_checks() -> dict[str, Check]:
    """Return every grader and reader that works in the caller's process, by name."""
    golds: dict[str, tuple[Problem, Kind | None]] = {
        "gsm8k": (_problem(gold=str(NUMBER)), "number"),
        "math500": (_problem(gold=str(NUMBER)), "number"),
        "math500, a word": (_problem(gold="\\text{east}"), None),
        "countdown-d1": (_problem(numbers=",".join(map(str, COUNTDOWN)), target=TARGET), "countdown"),
        "sudoku-d1": (_problem(puzzle=PUZZLE, solution=SOLUTION), "sudoku"),  # sudoku-spg grades by the same function
    }
    checks: dict[str, Check] = {}
    for name, (problem, kind) in golds.items():
        family = TASK_FAMILIES[name.partition(",")[0]]
        checks[name] = _graded(problem, kind, family.grade, family.grade_d1)
    countdown, sudoku, walk = Countdown(99), Sudoku(4), Walk()
    prompt = countdown.prompt_of(COUNTDOWN, TARGET)
    checks["countdown"] = _graded(Problem("torture", prompt, "", "torture"), "countdown", countdown.grade)
    grid = Problem("torture", prompt_of(PUZZLE.replace("0", ".")), SOLUTION, "torture")
    checks["sudoku"] = _graded(grid, "sudoku", sudoku.grade)
    checks["walk"] = _graded(walk.problems("train", 1, 0)[0], None, walk.grade)
    checks["parse_number"] = _read(parse_number)
    checks["parse_answer_number"] = _read(parse_answer_number)
    checks["exact_value"] = _read(exact_value)
    checks["parse_expression"] = _expression
    checks["d1's scorers"] = _d1
    return checks


def grade_cheaply(seed: int, start: int, count: int, limit: float = CPU_SECONDS) -> Tally:
    """Grade the completions of these numbers by all cheap graders."""
    tally, checks = Tally(), cheap_checks()
    before = _peak(resource.RUSAGE_SELF)
    with clock():
        for number in range(start, start + count):
            found = completion(seed, number)
            tally.completions += 1
            for name, check in checks.items():
                try_(tally, name, number, found, check, limit)
            tally.wrong += len(found.wrong_for)
    tally.memory = _peak(resource.RUSAGE_SELF) - before
    return tally


def try_(tally: Tally, name: str, number: int, found: Completion, check: Check, limit: float) -> None:
    """Let one grader grade one completion, and count what must not be."""
    signal.setitimer(signal.ITIMER_VIRTUAL, 4 * limit)
    started = time.process_time()
    try:
        fault = check(found)
    except _TooSlowError:
        fault = None
    except BaseException as error:  # noqa: BLE001  that nothing comes out is what is to be seen
        fault = f"{type(error).__name__}: {error!s:.80}"
        tally.escaped += 1
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    seconds = time.process_time() - started
    tally.slowest = max(tally.slowest, seconds)
    if seconds > limit:
        tally.too_slow += 1
        fault = fault or f"took {seconds:.1f} s"
    tally.paid += fault == "paid"
    if fault is not None:
        tally.faults.append(f"completion {number}, {name}: {fault} on {found.text[:200]!a}")


@contextmanager
def clock() -> Iterator[None]:
    def raise_(_number: int, _frame: FrameType | None) -> None:
        raise _TooSlowError

    old = signal.signal(signal.SIGVTALRM, raise_)
    try:
        yield
    finally:
        signal.signal(signal.SIGVTALRM, old)


def _peak(whose: int) -> int:
    return resource.getrusage(whose).ru_maxrss * 1024


# ----------------------------------------------------------------------------------------------------- symbolic grader


def grade_symbolically(seed: int, start: int, count: int) -> Tally:
    """Grade the completions of these numbers against golds that only the symbolic worker can compare."""
    tally = Tally()
    compare = symbolic._Pool.compare

    def counted(pool: symbolic._Pool, gold: str, answer: str) -> symbolic.Verdict:
        verdict = compare(pool, gold, answer)
        tally.asked += 1
        tally.verdicts[verdict] += 1
        return verdict

    symbolic._Pool.compare = counted  # type: ignore[method-assign, assignment]
    try:
        with clock():
            for number in range(start, start + count):
                _grade_by_worker(tally, seed, number)
    finally:
        symbolic._Pool.compare = compare  # type: ignore[method-assign]
        symbolic._pool.close()
    return tally


def _grade_by_worker(tally: Tally, seed: int, number: int) -> None:
    gold = SYMBOLIC[number % len(SYMBOLIC)]
    found = completion(seed, number, gold)
    tally.completions += 1
    if number % 8 and any(bomb in found.text for bomb in BOMBS):
        return
    tally.wrong += "symbolic" in found.wrong_for
    started, spent = time.monotonic(), _worker_usage()[0]
    check = _graded(_problem(gold=gold), "symbolic", TASK_FAMILIES["math500"].grade)
    try_(tally, "math500", number, found, check, CPU_SECONDS)
    seconds, memory = _worker_usage()
    tally.slowest = max(tally.slowest, seconds - spent)
    tally.worker_memory = max(tally.worker_memory, memory)
    if seconds - spent > WORKER_SECONDS or time.monotonic() - started > symbolic.WALL_SECONDS:
        tally.too_slow += 1
        tally.faults.append(f"completion {number}, math500: the worker took {seconds - spent:.1f} s")


def _worker_usage() -> tuple[float, int]:
    """Return the processor seconds of all workers of this process so far, and the most bytes that one has had."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, memory = ended.ru_utime + ended.ru_stime, ended.ru_maxrss * 1024
    worker = symbolic._pool.worker
    if worker is not None and worker.is_mine:
        with suppress(OSError, StopIteration):  # it may end just now
            folder = Path(f"/proc/{worker.process.pid}")
            ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
            lines = (folder / "status").read_text().splitlines()
            peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
            seconds, memory = seconds + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), max(memory, peak)
    return seconds, memory


# -------------------------------------------------------------------------------------------------------------- in all


def torture_cheap_graders(count: int, seed: int, jobs: int, record: Path) -> Tally:
    """Grade so many completions in processes of their own, and write down what came of it."""
    return _in_processes("completions", grade_cheaply, seed, range(count), jobs, record)


def torture_symbolic_grader(count: int, seed: int, jobs: int, record: Path) -> Tally:
    """Grade completions until the worker has been asked so many times."""
    total = Tally()
    while total.asked < count and not total.faults:
        start = total.completions
        more = max(PER_TASK * jobs, 2 * (count - total.asked))
        total.add(_in_processes("symbolic", grade_symbolically, seed, range(start, start + more), jobs, record))
    return total


def _in_processes(label: str, grade: Callable[..., Tally], seed: int, numbers: range, jobs: int, record: Path) -> Tally:
    """Give the completions of these numbers to processes, and add up their tallies; one that dies is a fault."""
    tally = Tally()
    starts = range(numbers.start, numbers.stop, PER_TASK)
    tasks = [(seed, start, min(PER_TASK, numbers.stop - start)) for start in starts]
    with (
        ProcessPoolExecutor(jobs, get_context("spawn")) as pool,
        ProgressBar(label, len(numbers), unit="completion") as bar,
    ):
        for (_, start, count), found in zip(tasks, _results(pool, grade, tasks), strict=True):
            told = found or Tally(escaped=1, faults=[f"completions {start} to {start + count}: the process died"])
            tally.add(told)
            bar.update(tally.completions, faults=len(tally.faults), slowest=round(tally.slowest, 2))
            _write(record, label, told)
    return tally


def _results(pool: Executor, grade: Callable[..., Tally], tasks: list[tuple[int, int, int]]) -> Iterator[Tally | None]:
    for future in [pool.submit(grade, *task) for task in tasks]:
        try:
            yield future.result()
        except BrokenProcessPool:
            yield None


def _write(record: Path, label: str, found: Tally) -> None:
    if found.faults:
        with record.open("a") as file:
            file.write("".join(json.dumps({"of": label, "fault": fault}) + os.linesep for fault in found.faults))
