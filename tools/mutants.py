"""Plant bugs in the ground floor, one at a time, and count those that a test catches: `make mutants`.

A green suite does not say what it would miss. `tools/mutants.toml` lists bugs of the kind that training hides (a wrong
sign, a step too far, a missing clip, a wrong normaliser), each with the tests that should turn red. A bug is caught
only where an assertion fails: one that breaks an import or trips a type check says nothing of the numbers.

Bugs are planted in copies of the sources; the working tree is left alone. Exit code 0: all were caught; 1: some were
not; 2: the list is wrong, or the tests fail without a bug.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src", "diffpo")
PRELOAD = ["torch", "transformers.modeling_utils", "transformers.models.auto", "hypothesis.strategies", "jaxtyping"]
PRELOAD += ["beartype.claw", "pydantic", "typer"]
"""Imports that take longer than most tests: made once, in the process that all runs of pytest are forked from."""


class Refused(Exception):
    """There is nothing to learn from a run; one sentence says why."""


@dataclass(frozen=True)
class Mutant:
    """One bug: `old` becomes `new` in a file under src/diffpo. The tests are files or node ids under tests/."""

    file: str
    old: str
    new: str
    why: str
    tests: list[str]


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    verdict: str
    """caught, survived, broken (no assertion failed, but the tests did not pass either), or timed out."""
    detail: str
    """The test that failed, or what happened instead."""
    seconds: float

    def __str__(self) -> str:
        return f"{self.verdict:<9}  {self.mutant.file:<24}  {self.mutant.why} ({self.detail}, {self.seconds:.0f} s)"


# ------------------------------------------------------------------------------------------------------------ the list


def read_mutants(file: Path, word: str = "") -> list[Mutant]:
    """Those with the word in their file or description. Raises Refused where there is none."""
    with file.open("rb") as stream:
        entries = tomllib.load(stream)["mutant"]
    try:
        mutants = [Mutant(**entry) for entry in entries]
    except TypeError as error:
        raise Refused(f"{file.name}: an entry has file, old, new, why and tests, and nothing else ({error})") from error
    mutants = [mutant for mutant in mutants if word in f"{mutant.file} {mutant.why}"]
    if not mutants:
        raise Refused(f"{file.name}: no entry has {word!r} in its file or description")
    return mutants


def check(root: Path, mutants: Sequence[Mutant]) -> None:
    """Raises Refused at the first entry that could not be planted, or that no test could catch."""
    for mutant in mutants:
        name = f"{mutant.file}, {mutant.why!r}"
        source = root / PACKAGE / mutant.file
        if not source.is_file():
            raise Refused(f"{name}: there is no such file under {PACKAGE}")
        if (count := source.read_text(encoding="utf-8").count(mutant.old)) != 1:
            raise Refused(f"{name}: its `old` should occur once in the file, and occurs {count} times")
        if mutant.new == mutant.old:
            raise Refused(f"{name}: `new` is the same as `old`")
        if not mutant.tests:
            raise Refused(f"{name}: no tests are named that should catch it")
        for test in mutant.tests:
            if not (root / "tests" / test.split("::")[0]).is_file():
                raise Refused(f"{name}: there is no tests/{test.split('::')[0]}")


# ------------------------------------------------------------------------------------------------------------- the run


def copy_sources(root: Path, to: Path) -> Path:
    """What the tests need, without anything compiled."""
    for part in (PACKAGE, Path("tests")):
        shutil.copytree(root / part, to / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", to)
    return to


def run_pytest(copy: Path, tests: Sequence[str], output: Path) -> None:
    """To be run in a process of its own, which ends with pytest's exit code."""
    with output.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy / "src")  # for what the tests start themselves
    os.environ["COLUMNS"] = "500"  # or pytest cuts the reason of a failure off
    sys.path.insert(0, str(copy / "src"))
    # Compiled code is told from its source by whole seconds and length, both of which two bugs may share.
    sys.dont_write_bytecode = True
    # Plugins that the preloaded modules have imported are not for pytest to rewrite any more.
    quiet = ["-q", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    sys.exit(pytest.main(["-x", *quiet, *(f"tests/{test}" for test in tests)]))


def run_tests(copy: Path, tests: Sequence[str], limit: float | None = None) -> tuple[int | None, str]:
    """pytest's exit code, None where the limit has passed, and its output, up to the first failure."""
    output = copy / "output.txt"
    output.touch()
    process = multiprocessing.get_context("forkserver").Process(
        target=run_pytest, args=(copy, tests, output), daemon=True
    )
    process.start()
    process.join(limit)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    return code, output.read_text(encoding="utf-8")


def verdict_of(code: int | None, output: str) -> tuple[str, str]:
    """Verdict and detail from a run of pytest with a bug in place."""
    if code is None:
        return "timed out", "the tests did not end"
    if code == 0:
        return "survived", "all tests passed"
    found = re.search(r"^FAILED tests/([^[]+?)(?:\[.*\])? - (.*)$", output, re.MULTILINE)
    if code != 1 or found is None:
        return "broken", f"pytest's exit code is {code}, and no test failed"
    test, reason = found.groups()
    if re.match(r"assert |AssertionError\b|Failed: DID NOT RAISE", reason):
        return "caught", test
    return "broken", f"{test} stopped at {reason.split(':')[0]}"


def judge(mutant: Mutant, copies: SimpleQueue[Path], limit: float) -> Outcome:
    """Plant the bug in a copy that is free, run its tests, and take it out again."""
    copy = copies.get()
    file = copy / PACKAGE / mutant.file
    source = file.read_text(encoding="utf-8")
    start = time.monotonic()
    try:
        file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
        verdict, detail = verdict_of(*run_tests(copy, mutant.tests, limit))
    finally:
        file.write_text(source, encoding="utf-8")
        copies.put(copy)
    return Outcome(mutant, verdict, detail, time.monotonic() - start)


def plant(root: Path, mutants: Sequence[Mutant], jobs: int, limit: float) -> list[Outcome]:
    """Judge every mutant, `jobs` at a time, and print each as it is done. Raises Refused as `check` does, and where the
    tests fail without a bug."""
    check(root, mutants)
    os.environ["OMP_NUM_THREADS"] = "1"  # before the first process imports torch
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copies.put(copy_sources(root, Path(folder, str(number))))
        print("running the tests without a bug first", flush=True)
        code, output = run_tests(Path(folder, "0"), sorted({test for mutant in mutants for test in mutant.tests}))
        if code:
            last = output.strip().splitlines()[-1]
            raise Refused(f"the tests fail without a bug, so they can catch none; pytest says: {last}")
        pool = ThreadPoolExecutor(jobs)
        outcomes = []
        try:
            for done in as_completed([pool.submit(judge, mutant, copies, limit) for mutant in mutants]):
                outcomes.append(done.result())
                print(outcomes[-1], flush=True)
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C ends the run, and does not begin the next mutant
    return outcomes


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Plant bugs in the ground floor; the tests must catch each.")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tested at a time (default: 2)")
    parser.add_argument("--only", default="", metavar="WORD", help="those whose file or description has this in it")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for the tests of one mutant (default: 300)")
    options = parser.parse_args(arguments)
    try:
        mutants = read_mutants(root / "tools" / "mutants.toml", options.only)
        outcomes = plant(root, mutants, options.jobs, options.limit)
    except Refused as refusal:
        print(f"mutants: {refusal}", file=sys.stderr)
        return 2
    caught = sum(outcome.verdict == "caught" for outcome in outcomes)
    print(f"{len(outcomes)} bugs planted, {caught} caught")
    return 0 if caught == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
