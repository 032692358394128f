"""The shell: what it prints, how it exits, and that asking for help costs no torch."""

import importlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.helpers.records import result

import diffpo
from diffpo.api import start
from diffpo.cli.main import main
from diffpo.core.errors import UserError
from diffpo.evaluation.sample_settings import SampleSettings
from diffpo.recipes import Strict, training_recipe
from diffpo.recipes.tables import BudgetRecipe, DeviceSettings, RlRecipe, SftRecipe


class TinyRecipe(Strict):
    num_steps: int = 1


class TinySftRecipe(SftRecipe):
    num_steps: int = 1


class TinyRlRecipe(RlRecipe):
    num_steps: int = 1
    base: str = "here"
    budget: BudgetRecipe = BudgetRecipe(steps=1)


class TinyEvalRecipe(TinyRecipe):
    model: str
    price: float | None = None


class TinySampler(TinyRecipe):
    base: str


RECIPES: dict[str, type[TinySftRecipe] | type[TinyRlRecipe]] = {"sft": TinySftRecipe, "rl": TinyRlRecipe}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands in for the loops and their schema; what they are called with."""
    made: list[tuple[Any, ...]] = []
    schema = ModuleType("diffpo.recipes.tables")
    vars(schema).update(EvalRecipe=TinyEvalRecipe, SamplerRecipe=TinySampler, is_graded=lambda task: True)
    vars(schema).update(DeviceSettings=DeviceSettings)
    monkeypatch.setitem(sys.modules, schema.__name__, schema)
    monkeypatch.setattr(training_recipe, "RECIPES", RECIPES)
    monkeypatch.setattr(start, "SftRecipe", TinySftRecipe)
    monkeypatch.setattr(start, "check_inputs", lambda recipe: None)
    stored = ModuleType("diffpo.recipes.stored")
    vars(stored).update(evaluated_task=lambda recipe: None, fitted_task=lambda recipe: None)
    vars(stored).update(sampled_length=lambda model, length: length or 16)
    vars(stored).update(over_stored_task=lambda model, recipe, overrides: list(overrides))
    monkeypatch.setitem(sys.modules, stored.__name__, stored)
    verbs = {"training.sft": "run_sft", "training.rl": "run_rl", "evaluation.run": "run_eval"}
    verbs |= {"evaluation.fit_sampler": "run_fit_sampler"}
    verbs |= {"cli.show_completion": "run_sample", "report.write": "write_reports", "cli.demo": "run_demo"}
    for module_name, function in verbs.items():
        module = ModuleType(f"diffpo.{module_name}")
        setattr(module, function, record_of(made, function))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def record_of(made: list[tuple[Any, ...]], name: str) -> Callable[..., str]:
    """Return a stand-in that notes how it is called; options that were not given as `False` are left out."""

    def record(*arguments: Any, **options: Any) -> str:
        made.append((name, *arguments, *(key for key, value in options.items() if value)))
        return name

    return record


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    file = tmp_path / "tiny.toml"
    file.write_text("num_steps = 2\n", encoding="utf-8")
    return str(file)


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code or 0


def test_reading_a_recipe_imports_no_torch() -> None:
    script = "import sys, diffpo\ndiffpo.load_recipe\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], timeout=30, check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "no/such"], "no/such does not exist; name a folder with a model"),
        (["sample", "no/such", "--prompt", "x"], "no/such does not exist; name a folder with a model"),
        (["eval", "some/model"], "no recipe.toml says which task some/model was trained on; give task.size"),
        (["eval", ".", "task.kind=walk"], ". holds neither a model"),
        (["sample", ".", "--prompt", "x", "--length", "4"], ". holds neither a model"),
        (["rl", "d1", "base=no/such/model", "--out", "x"], "no/such/model does not exist; name a folder"),
        (["sft", "sudoku4-base", "base=.", "--out", "x"], ". holds neither a model"),
    ],
)
def test_what_is_wrong_with_a_models_path_is_told_without_torch(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "no").mkdir()
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "from diffpo.cli.main import main\n"
        f"main({arguments})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "False\n") and message in done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"diffpo {diffpo.__version__}\n"


@pytest.mark.parametrize("verb", ["sft", "rl"])
def test_a_loop_gets_its_recipe_with_the_overrides(
    verb: str, calls: list[tuple[Any, ...]], recipe_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(verb, recipe_file, "num_steps=3", "--out", str(tmp_path / "run"), "--resume") == 0
    assert capsys.readouterr() == ("", f"next: diffpo eval {tmp_path / 'run'}\n")
    assert exit_code(verb, recipe_file, "--out", str(tmp_path / "run")) == 0
    assert calls == [
        (f"run_{verb}", RECIPES[verb](num_steps=3), tmp_path / "run", True),
        (f"run_{verb}", RECIPES[verb](num_steps=2), tmp_path / "run", False),
    ]


@pytest.mark.parametrize("verb", ["sft", "rl"])
@pytest.mark.parametrize("auto", [["--resume", "auto"], ["--resume=auto"]])
def test_resume_auto_and_extend_stand_anywhere(
    verb: str, auto: list[str], calls: list[tuple[Any, ...]], recipe_file: str, tmp_path: Path
) -> None:
    given = ["--out", str(tmp_path / "run")]
    assert exit_code(verb, *auto, recipe_file, "num_steps=3", *given) == 0
    assert exit_code(verb, recipe_file, *auto, "num_steps=3", "--extend", *given) == 0
    assert exit_code(verb, recipe_file, "--extend", "num_steps=3", *given, "--resume") == 0
    called = (f"run_{verb}", RECIPES[verb](num_steps=3), tmp_path / "run")
    assert calls == [(*called, "auto"), (*called, "auto", "extend"), (*called, True, "extend")]


def test_the_next_command_works_as_it_is_printed(
    calls: list[tuple[Any, ...]], recipe_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "it's my run"
    run.mkdir()
    assert exit_code("sampler", str(run), "--out", str(run)) == 0
    told = capsys.readouterr().err
    assert told.startswith("next: diffpo eval ")
    (run / "metrics.jsonl").touch()
    assert exit_code(*shlex.split(told)[2:]) == 0
    assert shlex.split(capsys.readouterr().err) == ["next:", "diffpo", "report", str(run)]
    assert [call[0] for call in calls] == ["run_fit_sampler", "run_eval"]
    (run / "recipe.toml").touch()
    assert exit_code("sample", str(run), "--prompt", "1") == 0
    assert shlex.split(capsys.readouterr().err) == ["next:", "diffpo", "eval", str(run)]
    assert exit_code("sample", str(run), "--prompt", "1", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_a_report_says_how_its_figures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a study's tables are among them, by the very command that is printed."""
    lines = [result("walk", arm, seed, skill) for arm, skill in (("d1", 0.5), ("ours", 0.9)) for seed in (0, 1)]
    for line in lines:
        line["settings"] |= {"base": {}}
        for point in line["points"]:
            for rule in point["rules"]:
                rule["accuracy"] = sum(rule["solved"]) / len(rule["solved"])
    study = tmp_path / "my study"
    study.mkdir()
    (study / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for given in (["study", "--report-only", "--out", str(study)], ["report", str(study)]):
        assert exit_code(*given) == 0
        told = shlex.split(capsys.readouterr().err)
        assert told == ["next:", "diffpo", "report", str(study), "--figures", str(study / "figures")], given
    assert exit_code(*told[2:]) == 0
    ends = (study / "figures" / "study-walk-at-the-end-of-the-budget.csv").read_text().splitlines()
    assert ends[0].startswith("arm,rule,seeds,accuracy % at the end,accuracy % at the end low,")
    ours = next(line for line in ends if line.startswith("ours,entropy bound 0,0 1,")).split(",")
    value, low, high = map(float, ours[3:6])
    assert low < value < high and f"{value:.1f} [{low:.1f}, {high:.1f}]" in (study / "table.md").read_text()
    assert capsys.readouterr().err.count("next:") == 0
    (study / "runs.jsonl").write_text(json.dumps(lines[0] | {"settings": {}}) + "\n")
    assert exit_code(*told[2:]) == 2
    assert "runs.jsonl: a result has not the shape" in capsys.readouterr().err


def test_a_bench_says_what_is_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("bench", "--list") == 0
    told = capsys.readouterr()
    assert shlex.split(told.err) == ["next:", "diffpo", "bench", told.out.split()[0]]


def test_the_other_verbs(
    calls: list[tuple[Any, ...]], recipe_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = str(tmp_path)
    assert exit_code("eval", here, "num_steps=5", "--recipe", recipe_file) == 0
    assert exit_code("eval", here, "--price", "0.5") == 0
    assert exit_code("sample", here, "--prompt", "1 2", "--seed", "4") == 0
    assert exit_code("sample", here, "--prompt", "1 2", "--price", "0") == 0
    assert exit_code("sampler", here, "num_steps=5", "--out", "x") == 0
    assert exit_code("report", here) == 0
    pages = [word for page in "write_reports" for word in ("wrote", page)]  # the stand-in's name, as a list of pages
    assert capsys.readouterr().out.split() == [*["run_eval"] * 2, "run_fit_sampler", *pages]
    assert exit_code("demo", "--seed", "7") == 0
    assert calls == [
        ("run_eval", TinyEvalRecipe(num_steps=5, model=here), tmp_path / "eval.json"),
        ("run_eval", TinyEvalRecipe(model=here, price=0.5), tmp_path / "eval.json"),
        ("run_sample", here, "1 2", SampleSettings(16, seed=4), DeviceSettings()),
        ("run_sample", here, "1 2", SampleSettings(16, price=0.0), DeviceSettings()),
        ("run_fit_sampler", TinySampler(num_steps=5, base=here), Path("x")),
        ("write_reports", [tmp_path], None, None),
        ("run_demo", Path("runs/demo"), 7),
    ]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["sft", "{recipe}"], "where to? Give --out"),
        (["sft", "{recipe}", "--out", "x", "--resum"], "No such option: --resum"),
        (["sft", "{recipe}", "num_stpes=3", "--out", "x"], "num_stpes: unknown option; did you mean 'num_steps'?"),
        (["rl", "no-such-recipe", "--out", "x"], "no recipe is called 'no-such-recipe'"),
        (["sample", ".", "--prompt", "1", "--dtype", "int8"], "'int8' is not one of 'float32', 'bfloat16'"),
        (["eval", ".", "task.kind=sudoku"], "task: unknown option"),
        (["eval", ".", "--price", "-0.1"], "price is -0.1; give a finite number from 0 up"),
        (["eval", ".", "--price", "nan"], "price is nan; give a finite number from 0 up"),
        (["sample", ".", "--prompt", "1", "--price", "inf"], "price is inf; give a finite number from 0 up"),
        (
            ["sample", ".", "--prompt", "1", "--price", "1", "--entropy-bound", "1"],
            "--entropy-bound says how; give one",
        ),
        (["sampler", ".", "--recipe", "{recipe}"], "where to? Give --out, the folder for the model with its sampler"),
        (["demo", "--seed", "-1"], "should be greater than or equal to 0"),
    ],
)
def test_a_users_mistake_is_told_on_stderr_with_code_2(
    arguments: list[str], message: str, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*(argument.format(recipe=recipe_file) for argument in arguments)) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (UserError("the disk is full"), 2, "diffpo: the disk is full\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_what_a_verb_raises_becomes_an_exit_code(
    raised: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_demo(out: Path, seed: int) -> None:
        raise raised

    # Click replaces both streams when a pipe breaks; monkeypatch puts them back.
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(sys.modules["diffpo.cli.demo"], "run_demo", run_demo)
    assert exit_code("demo") == code
    assert capsys.readouterr().err == message


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Any, ...]]) -> None:
    def run_demo(out: Path, seed: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["diffpo.cli.demo"], "run_demo", run_demo)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_a_name_that_the_package_does_not_export() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        importlib.import_module("diffpo").nonsense  # noqa: B018
