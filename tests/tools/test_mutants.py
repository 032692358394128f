"""The bugs that `make mutants` plants, and the tool itself on a project of one function."""

import os
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest

import mutants
from mutants import PACKAGE, ROOT, Mutant, Refused, check, copy_sources, judge, main, read_mutants, verdict_of

MUTANTS = read_mutants(ROOT / "tools" / "mutants.toml")

# ------------------------------------------------------------------------------------------------------------ the list


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.why}")
def test_every_bug_can_be_planted(mutant: Mutant) -> None:
    check(ROOT, [mutant])
    file = ROOT / PACKAGE / mutant.file
    compile(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), file, "exec")
    for test in mutant.tests:
        name, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / "tests" / name).read_text(encoding="utf-8") or not function


def test_there_are_bugs_in_every_part_of_the_ground_floor() -> None:
    assert len(MUTANTS) >= 30
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.why) for mutant in MUTANTS}) == len(MUTANTS)
    folders = ("likelihood", "objective")
    modules = (module for folder in folders for module in (ROOT / PACKAGE / folder).glob("*.py"))
    files = {str(module.relative_to(ROOT / PACKAGE)) for module in modules if module.name != "__init__.py"}
    files |= {"core/canvas.py", "core/randomness.py", "sampling/rules.py", "sampling/loop.py", "sampling/state.py"}
    files |= {"statistics/intervals.py", "statistics/frontier.py", "training/policy_update.py"}
    assert files <= {mutant.file for mutant in MUTANTS}


# ------------------------------------------------------------------------------------------------------------ the tool

RIGHT = Mutant("sums.py", "a + b", "a - b", "sign", ["test_sums.py"])
PROJECT = {
    "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--strict-markers"\n',
    "src/diffpo/__init__.py": "",
    "src/diffpo/sums.py": "def add(a, b):\n    return a + b\n\n\ndef twice(a):\n    return 2 * a\n",
    "tests/test_sums.py": "from diffpo.sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose one test looks at one of its two functions."""
    # Plugins and what is imported beforehand take longer than its test.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(mutants, "PRELOAD", ["pytest"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the tool sets it: put back what was
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def list_mutants(project: Path, *mutants: Mutant) -> None:
    text = "".join(
        "[[mutant]]\n" + "".join(f"{name} = {value!r}\n" for name, value in vars(mutant).items()) for mutant in mutants
    )
    (project / "tools").mkdir()
    (project / "tools" / "mutants.toml").write_text(text, encoding="utf-8")


def test_bugs_are_caught_survive_or_prove_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unseen = Mutant("sums.py", "2 * a", "3 * a", "factor", ["test_sums.py"])
    raises = replace(RIGHT, new="a + c", why="raises")
    no_python = replace(RIGHT, new="a +", why="no import")
    list_mutants(project, RIGHT, unseen, raises, no_python)
    assert main(["--jobs", "2"], project) == 1
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first == "running the tests without a bug first"
    assert last == "4 bugs planted, 1 caught"
    words = [("caught", "sign", "test_sums.py::test_add"), ("survived", "factor", "all tests passed")]
    words += [("broken", "raises", "NameError"), ("broken", "no import", "exit code is 2")]
    for verdict, why, detail in words:
        (line,) = (line for line in lines if why in line)
        assert line.startswith(verdict) and "sums.py" in line and detail in line
    assert {name: (project / name).read_text(encoding="utf-8") for name in PROJECT} == PROJECT


def test_all_caught_is_a_success_and_only_selects(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_mutants(project, RIGHT, replace(RIGHT, new="a * b", why="operation"))
    assert main(["--jobs", "1", "--only", "operation"], project) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 bugs planted, 1 caught"
    assert main(["--only", "else"], project) == 2
    assert capsys.readouterr().err == "mutants: mutants.toml: no entry has 'else' in its file or description\n"


def test_a_hang_is_not_caught(project: Path) -> None:
    copies: SimpleQueue[Path] = SimpleQueue()
    copies.put(copy_sources(project, project / "copy"))
    assert judge(RIGHT, copies, limit=0.01).verdict == "timed out"
    copy = copies.get()
    assert (copy / PACKAGE / "sums.py").read_text(encoding="utf-8") == PROJECT["src/diffpo/sums.py"]


def test_red_tests_can_catch_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_mutants(project, RIGHT)
    test = project / "tests" / "test_sums.py"
    test.write_text(test.read_text(encoding="utf-8").replace("5", "6"), encoding="utf-8")
    assert main([], project) == 2
    assert "the tests fail without a bug" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"old": "a - b"}, "occurs 0 times"),
        ({"old": "a"}, "occurs 5 times"),
        ({"new": "a + b"}, "the same"),
        ({"file": "products.py"}, "no such file"),
        ({"tests": ["test_products.py::test_add"]}, "there is no tests/test_products.py"),
        ({"tests": []}, "no tests are named"),
    ],
)
def test_what_cannot_be_planted_is_refused(change: dict[str, object], said: str, project: Path) -> None:
    with pytest.raises(Refused, match=said):
        check(project, [Mutant(**{**vars(RIGHT), **change})])


def test_an_entry_with_a_misspelt_key_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_mutants(project, RIGHT)
    file = project / "tools" / "mutants.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("why", "because"), encoding="utf-8")
    assert main([], project) == 2
    assert "an entry has file, old, new, why and tests" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "line", "verdict", "detail"),
    [
        (None, "", "timed out", "did not end"),
        (0, "1 passed", "survived", "all tests passed"),
        (1, "FAILED tests/test_a.py::test_b - assert 1 == 2", "caught", "test_a.py::test_b"),
        (1, "FAILED tests/test_a.py::test_b - AssertionError: not close!", "caught", "test_a.py::test_b"),
        (1, "FAILED tests/test_a.py::test_b - Failed: DID NOT RAISE <class 'E'>", "caught", "test_a.py::test_b"),
        (1, "FAILED tests/test_a.py::test_b[1.0-f(x)] - assert 0", "caught", "test_a.py::test_b"),
        (1, "FAILED tests/test_a.py::test_b - jaxtyping.TypeCheckError: no", "broken", "jaxtyping.TypeCheckError"),
        (1, "FAILED tests/test_a.py::test_b - Failed: Timeout (>300.0s)", "broken", "Failed"),
        (1, "ERROR tests/test_a.py::test_b - AssertionError", "broken", "exit code is 1"),
        (2, "ERROR tests/test_a.py - AssertionError", "broken", "exit code is 2"),
        (4, "ERROR: not found", "broken", "exit code is 4"),
        (5, "no tests ran", "broken", "exit code is 5"),
    ],
)
def test_only_a_failed_assertion_catches_a_bug(code: int | None, line: str, verdict: str, detail: str) -> None:
    found = verdict_of(code, f"F{os.linesep}=== short test summary info ===\n{line}\n")
    assert found[0] == verdict and detail in found[1]
