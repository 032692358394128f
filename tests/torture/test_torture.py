"""A handful of what `make torture` does by the hundred and the million, and that it counts what goes wrong."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpo.core.errors import UserError
from diffpo.tasks.base import Grade
from tests.torture import answers, kills, readers
from tests.torture.answers import Tally, cheap_checks, fault_of, grade_cheaply, grade_symbolically, try_
from tests.torture.completions import ATOMS, COUNTDOWN, NUMBER, SOLUTION, Completion, completion, wrong_for
from tests.torture.flips import torture_by_flips
from tests.torture.full_disk import torture_by_full_disks
from tests.torture.readers import Readers, Source, sources, try_reader


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[kills.Case], Path]:
    folder = tmp_path_factory.mktemp("torture")
    return kills.cases(folder), folder


def test_kills_at_random_lose_nothing(runs: tuple[list[kills.Case], Path]) -> None:
    assert kills.torture_by_kills(*runs, count=2, seed=0) == kills.Kills(killed=2, resumed=2, lost=0)


def test_bytes_that_flip_are_detected(runs: tuple[list[kills.Case], Path]) -> None:
    assert torture_by_flips(runs[1] / "rl" / "straight", count=24, seed=0) == 24


@pytest.mark.slow
def test_full_disks_lose_nothing(runs: tuple[list[kills.Case], Path]) -> None:
    full = torture_by_full_disks(*runs, count=4, seed=0)
    assert (full.filled, full.told, full.resumed) == (4, 4, 4)


# ------------------------------------------------------------------------------------------------------------- answers


def test_cheap_graders_survive_what_is_fuzzed() -> None:
    tally = grade_cheaply(seed=3, start=0, count=400)
    assert not tally.faults and tally.is_good, tally.faults[:3]
    assert tally.completions == 400 and tally.wrong > 1000


def test_the_symbolic_grader_survives_what_is_fuzzed() -> None:
    tally = grade_symbolically(seed=3, start=0, count=24)
    assert not tally.faults and tally.is_good, tally.faults[:3]
    assert tally.asked > 0 and tally.worker_memory > 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(ATOMS) | st.text(max_size=8), max_size=8).map("".join))
def test_any_text_is_graded_and_not_paid(text: str) -> None:
    found = Completion(text, wrong_for(text))
    assert [fault for check in cheap_checks().values() if (fault := check(found))] == []


def test_a_number_draws_one_completion() -> None:
    assert completion(1, 7) == completion(1, 7) != completion(2, 7)


def test_what_states_a_gold_answer_is_not_known_to_be_wrong() -> None:
    assert wrong_for("none of them") == {"number", "countdown", "sudoku", "symbolic"}
    assert wrong_for(f"8602 8157 {SOLUTION}") == {"countdown"}
    assert wrong_for(" ".join(map(str, COUNTDOWN))) == {"number", "sudoku", "symbolic"}


def test_faults_of_graders_are_counted() -> None:
    wrong = Completion("7", frozenset({"number"}))
    paid = Grade(1.0, {"solved": 1.0})
    assert fault_of(paid, "number", wrong) == "paid"
    assert fault_of(paid, "sudoku", wrong) is None
    assert fault_of(Grade(float("nan"), {"solved": 0.0}), None, wrong) is not None
    assert fault_of(Grade(0.0, {"solved": 0.0}, "grader_failed"), None, wrong) is not None

    def raises(_: Completion) -> str | None:
        raise RecursionError

    def never_ends(_: Completion) -> str | None:
        while True:
            pass

    tally = Tally()
    with answers.clock():
        try_(tally, "pays", 1, wrong, lambda found: fault_of(paid, "number", found), limit=1.0)
        try_(tally, "raises", 2, wrong, raises, limit=1.0)
        try_(tally, "never ends", 3, wrong, never_ends, limit=0.02)
    assert (tally.paid, tally.escaped, tally.too_slow, len(tally.faults)) == (1, 1, 1, 3)
    assert not tally.is_good and "paid 1" in tally.line()
    assert str(NUMBER) not in wrong.text


# --------------------------------------------------------------------------------------------------------------- files


def test_every_reader_takes_what_is_right(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    refused = {}
    for source in sources(tmp_path / "made"):
        for name, content in source.files.items():
            (tmp_path / source.name / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / source.name / name).write_bytes(content)
        try:
            source.read(tmp_path / source.name)
        except UserError as error:
            refused[source.name] = str(error)
    # A sampler's weights are those of another model, which is refused last, and an array is to be a line for each row.
    assert refused.keys() == {"sampler", "json array"}, refused


def test_spoilt_files_are_one_sentence(tmp_path: Path) -> None:
    tally = readers.torture_by_files(tmp_path, count=300, seed=3)
    assert tally.faults == [] and tally.read == 300 and tally.refused > 50


def test_faults_of_readers_are_counted(tmp_path: Path) -> None:
    def read(folder: Path) -> object:
        return [][len((folder / "a").read_bytes())]

    tally = Readers()
    try_reader(Source("bad", read, {"a": b"abc"}, ("a",)), tmp_path, random.Random(0), tally)
    assert len(tally.faults) == 1 and "IndexError" in tally.faults[0]
