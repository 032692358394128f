"""Studies on a tiny model: run, interrupted and gone on with, refused, selected from, and reported from lines alone."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.helpers.forked import Forked
from tests.helpers.tiny_study import BUDGET, CLOCKS, lines_in, write_recipes

from diffpo.cli.main import main
from diffpo.core.errors import NonFiniteLossError, Stopped, UserError
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import StudyRecipe
from diffpo.study import arms, harness, jobs, worker
from diffpo.study.harness import run_study
from diffpo.study.jobs import Job
from diffpo.study.plan import Selection, StudyPaths, StudyRun, check, rl_recipe, study_runs
from diffpo.study.report import write_study_report
from diffpo.study.results import RUNS, append_results, read_results
from diffpo.study.summary import differences, trajectories, verdicts
from diffpo.study.tables import points_text
from diffpo.training import rl, rl_step

SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results and the work folder of the whole study, run once."""
    root = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_recipes(root)
        run_study(load_recipe(StudyRecipe, "study.toml"), root / "results", root / "work")
    return root


def study(*overrides: str) -> StudyRecipe:
    return load_recipe(StudyRecipe, "study.toml", overrides)


def work(*arguments: str) -> None:
    """Do one job of a study in this process, which is its own."""
    sys.argv[1:] = arguments
    worker.main()


def error_of(*arguments: str, capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["study", *arguments])
    assert caught.value.code == 2
    return capfd.readouterr().err


# ------------------------------------------------------------------------------------------------------------- results


def test_a_line_for_each_run_with_its_whole_trajectory(undisturbed: Path) -> None:
    lines = lines_in(undisturbed / "results")
    assert [(line["arm"], line["seed"]) for line in lines] == [("2-MF+IS", 0), ("mf", 0), ("2-MF+IS", 1), ("mf", 1)]
    for line in lines:
        assert line["study"] == "tiny" and line["task"] == "walk" and line["completion_length"] == 4
        assert [point["share"] for point in line["points"]] == SHARES
        calls = [point["calls"] for point in line["points"]]
        assert calls == sorted(calls) and calls[-1] >= BUDGET > calls[-2]
        assert all(point["calls"] >= share * BUDGET for point, share in zip(line["points"], SHARES, strict=True))
        for share, point in zip(SHARES, line["points"], strict=True):
            bounds = [0, 0.5, 1, 4] if share in (0, 1) else [0, 1]
            names = [f"entropy bound {bound:g}" for bound in bounds]
            assert [rule["rule"] for rule in point["rules"]] == [*names, "temperature 1"]
            assert ("validation" in point) == (share in (0, 1))
            if "validation" in point:
                assert point["validation"]["n"] == 9
                assert [set(rule) for rule in point["validation"]["rules"]] == [{"rule", "accuracy", "nfe"}] * 4
                assert [rule["rule"] for rule in point["validation"]["rules"]] == names
            for rule in point["rules"]:
                assert rule["accuracy"] == np.mean(rule["solved"]) and len(rule["solved"]) == 12
                assert rule["nfe"] == np.mean(rule["nfe_rows"])
            assert point["rules"][0]["nfe"] == 4
        assert line["training"][-1]["denoiser_calls"] == calls[-1]
        task = {"kind": "walk", "length": 4, "successors": 2, "step_credit": 0.5, "reward_seconds": 300.0}
        assert line["settings"]["rl"]["task"] == task
    assert len({json.dumps(line["points"][0]) for line in lines}) == 1
    assert len({json.dumps(line["training"]) for line in lines}) == 4


def test_looking_at_a_run_does_not_change_it(undisturbed: Path, here: Path) -> None:
    """The same RL run without a study: step by step the same figures, denoiser calls included."""
    run = StudyRun("walk", "mf", 1)
    rl.run_rl(rl_recipe(study(), run, StudyPaths(undisturbed / "work")), here / "alone")
    alone = [json.loads(line) for line in (here / "alone" / "metrics.jsonl").read_text().splitlines()]
    line = next(line for line in lines_in(undisturbed / "results") if (line["arm"], line["seed"]) == ("mf", 1))
    assert [{name: value for name, value in step.items() if name not in CLOCKS} for step in alone] == line["training"]


def test_a_finished_study_has_nothing_to_do(undisturbed: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(undisturbed / "results", here / "results")
    before = (here / "results" / RUNS).read_bytes()
    monkeypatch.setattr(harness, "perform", lambda *_: pytest.fail("nothing is missing"))
    run_study(study(), here / "results", here / "work")
    assert (here / "results" / RUNS).read_bytes() == before


@pytest.mark.parametrize(
    ("module", "name", "nth", "finished"),
    [
        pytest.param(rl, "train_step", 5, 0, marks=pytest.mark.slow),
        (rl, "train_step", 12, 1),
        pytest.param(arms, "measure_policy", 4, 0, marks=pytest.mark.slow),
    ],
)
def test_interrupted_and_resumed_it_gives_the_same_lines(
    module: ModuleType,
    name: str,
    nth: int,
    finished: int,
    undisturbed: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within a step of the first run, of the second, and while a point is measured; checkpoints are steps apart."""
    shutil.copytree(undisturbed / "work" / "bases", here / "work" / "bases")
    function, seen = getattr(module, name), []

    def interrupted(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == nth:
            raise KeyboardInterrupt
        return function(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        with pytest.raises(Stopped, match="the same command goes on"):
            run_study(study(), here / "results", here / "work", selection=Selection(seeds=("0",)))
    assert len(read_results(here / "results" / RUNS)) == finished
    run_study(study(), here / "results", here / "work", selection=Selection(seeds=("0",)))
    assert lines_in(here / "results") == [line for line in lines_in(undisturbed / "results") if line["seed"] == 0]


def forked(job: Job, paths: StudyPaths) -> Forked:
    """Start a job as the harness does, but faster."""
    log = jobs.log_of(job, paths)
    log.parent.mkdir(parents=True, exist_ok=True)
    return Forked(work, str(paths.work), *job.arguments, stdout=log, stderr=log)


@pytest.mark.slow
def test_runs_in_processes_of_their_own_give_the_same_lines(
    undisturbed: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the three is started by its command."""
    shutil.copytree(undisturbed / "work" / "bases", here / "work" / "bases")
    start = jobs._start

    def started(job: Job, paths: StudyPaths) -> "Forked | subprocess.Popen[bytes]":
        return start(job, paths) if "mf" in job.arguments else forked(job, paths)

    monkeypatch.setattr(jobs, "_start", started)
    run_study(study(), here / "results", here / "work", jobs=2, selection=Selection(seeds=("0",)))
    assert lines_in(here / "results") == [line for line in lines_in(undisturbed / "results") if line["seed"] == 0]
    assert (here / "work" / "logs" / "walk-mf-0.log").read_text()


def test_ctrl_c_reaches_the_processes_once_and_they_go_on(
    undisturbed: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed / "work" / "bases", here / "work" / "bases")
    run = here / "work" / "runs" / "walk" / "mf" / "seed-0"
    processes: list[Forked] = []

    def started(job: Job, paths: StudyPaths) -> Forked:
        processes.append(forked(job, paths))
        return processes[-1]

    def sleep_then_interrupt(seconds: float) -> None:
        time.sleep(seconds)
        if (run / METRICS).exists() and not (here / "interrupted").exists():
            (here / "interrupted").touch()
            signal.raise_signal(signal.SIGINT)

    only = Selection(arms=("mf",), seeds=("0",))
    monkeypatch.setattr(jobs, "_start", started)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "time", SimpleNamespace(sleep=sleep_then_interrupt))
        with pytest.raises(Stopped, match="the same command goes on"):
            run_study(study("budget=30000"), here / "results", here / "work", jobs=2, selection=only)
    assert [process.returncode for process in processes] == [0, 130]
    assert len(checkpoints(run)) > 0 and not (here / "results" / RUNS).exists()
    learnt = (run / METRICS).read_text()
    with pytest.raises(UserError, match=rf"another recipe \(budget\.denoiser_calls: 30000 -> {BUDGET}\)"):
        run_study(study(), here / "results", here / "work", jobs=2, selection=only)
    assert (run / METRICS).read_text() == learnt


def test_an_arm_that_diverges_does_not_take_the_others_with_it(
    undisturbed: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed / "work" / "bases", here / "work" / "bases")
    train_step = rl_step.train_step

    def diverging(recipe: Any, *arguments: Any) -> dict[str, float]:
        if recipe.objective.importance_cap is None:
            raise NonFiniteLossError("the gradient's norm is nan")
        return train_step(recipe, *arguments)

    monkeypatch.setattr(rl, "train_step", diverging)
    with pytest.raises(RuntimeError, match=r"1 of 2 runs failed: walk mf seed 0 \(the gradient's norm is nan\)"):
        run_study(study(), here / "results", here / "work", selection=Selection(seeds=("0",)))
    assert [line["arm"] for line in lines_in(here / "results")] == ["2-MF+IS"]


# ----------------------------------------------------------------------------------------------------------- selection


def test_any_subset_can_be_run(here: Path) -> None:
    everything = study_runs(study(), Selection())
    assert everything == [StudyRun("walk", arm, seed) for seed in (0, 1) for arm in ("mf", "2-MF+IS")]
    assert study_runs(study(), Selection(arms=("mf",), seeds=("1",))) == [StudyRun("walk", "mf", 1)]
    models = study_runs(study("kind=likelihood"), Selection(seeds=("0",)))
    assert [run.arm for run in models] == ["base", "mf", "2-MF+IS"]


@pytest.mark.parametrize(("option", "known"), [("--arms", "mf, 2-MF+IS"), ("--tasks", "walk"), ("--seeds", "0, 1")])
def test_a_selection_of_what_is_not_there(
    option: str, known: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    message = error_of("study.toml", "--out", "results", option, "nonsense", capfd=capfd)
    assert f"has no {option[2:-1]} nonsense; choose from {known}" in message


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_impossible_combinations_are_all_named_before_anything_is_trained(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (here / "study.toml").open("a") as file:
        file.write(
            "[[arms]]\nname = 'odd'\nrecipe = 'rl.toml'\noverrides = ['estimator={kind=\"elbo\", draws=3}']\n"
            "[[arms]]\nname = 'blocks'\nrecipe = 'rl.toml'\noverrides = ['rollout.block_length=3']\n"
            "[[tasks]]\nname = 'none'\nbase = 'no-such-recipe'\n"
        )
    message = error_of("study.toml", "--out", "results", "--work", "work", capfd=capfd)
    assert "arm odd on task walk: 1 mistake in recipe rl.toml: estimator: draws 3 is odd" in message
    assert "arm blocks on task walk:" in message and "3 does not divide the completion length 4" in message
    assert "task none: no recipe is called 'no-such-recipe'" in message
    assert not (here / "results").exists() and not (here / "work").exists()


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("evaluation.every=0.5", "evaluation.every"),
        ("seeds=[]", "seeds: none is given"),
        ("seeds=[1,1]", "seeds: 1 is there twice"),
        ("kind=arm", "'arms' or 'likelihood'"),
        ('mismatch.estimators=[{kind="elbo"}]', "'elbo' scores a token on several canvases"),
    ],
)
def test_a_mistake_in_the_study(override: str, word: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert word in error_of("study.toml", override, "--out", "results", capfd=capfd)


def test_results_from_before_an_option_are_those_of_its_default(
    undisturbed: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in (undisturbed / "results" / RUNS).read_text().splitlines()]
    for line in lines:
        del line["settings"]["rl"]["objective"]["drop_zero_std_groups"], line["settings"]["base"]["threads"]
        del line["settings"]["measured"]["batch"]
    (here / "results").mkdir()
    monkeypatch.setattr(harness, "perform", lambda *_: pytest.fail("nothing is missing"))
    append_results(here / "results" / RUNS, lines)
    message = error_of("study.toml", "--out", "results", "--jobs", "1", capfd=capfd)
    assert (
        "base.threads: null -> 1" in message
        and "measured.batch: 200 -> 5" in message
        and "drop_zero_std_groups" not in message
    )


def test_results_of_other_settings_are_not_mixed(
    undisturbed: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed / "results", here / "results")
    message = error_of("study.toml", "budget=600", "--out", "results", capfd=capfd)
    assert f"has other settings (rl.budget.denoiser_calls: {BUDGET} -> 600)" in message


def test_a_broken_line_is_named_and_can_be_left_out(
    undisturbed: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed / "results", here / "results")
    shutil.copytree(undisturbed / "work" / "bases", here / "work" / "bases")
    results = here / "results" / RUNS
    whole = results.read_text().splitlines()
    results.write_text("\n".join([whole[0], whole[1][:-9], *whole[2:]]) + "\n")
    message = error_of("study.toml", "--out", "results", "--work", "work", capfd=capfd)
    assert "runs.jsonl, line 2 is broken" in message and "--skip-broken" in message
    assert "line 2 is broken" in error_of("--out", "results", "--report-only", capfd=capfd)
    with pytest.raises(SystemExit) as caught:
        main(["study", "study.toml", "--out", "results", "--work", "work", "--skip-broken"])
    assert not caught.value.code
    lines = read_results(results, skip_broken=True)
    assert len(lines) == 4 and json.loads(results.read_text().splitlines()[-1])["arm"] == lines[-1]["arm"]


@pytest.mark.parametrize("text", ["{}", "[1]", "{", '{"kind": "arms", "task": "walk"}', '"text"'])
def test_what_is_no_line(text: str, tmp_path: Path) -> None:
    (tmp_path / RUNS).write_text("\n" + text)
    with pytest.raises(UserError, match=r"runs\.jsonl, line 2 is broken"):
        read_results(tmp_path / RUNS)
    assert read_results(tmp_path / RUNS, skip_broken=True) == []


def test_a_line_after_one_that_was_cut_short_is_whole(tmp_path: Path) -> None:
    (tmp_path / RUNS).write_text('{"a": 1')
    append_results(tmp_path / RUNS, [{"b": 2}])
    append_results(tmp_path / RUNS, [{"c": 3}])
    assert (tmp_path / RUNS).read_text() == '{"a": 1\n{"b":2}\n{"c":3}\n'


def test_the_same_run_twice_is_a_mistake(undisturbed: Path, here: Path) -> None:
    text = (undisturbed / "results" / RUNS).read_text()
    (here / RUNS).write_text(text + text.splitlines()[0] + "\n")
    with pytest.raises(UserError, match="line 5 is broken: a line before it is of walk"):
        read_results(here / RUNS)


def test_only_one_study_at_a_time_writes_results(here: Path) -> None:
    with harness._locked(here / "results"), pytest.raises(UserError, match="another study is at work"):
        run_study(study(), here / "results", here / "work")


# -------------------------------------------------------------------------------------------------------------- report


def test_the_report_needs_the_lines_alone_and_no_torch(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copy(undisturbed / "results" / RUNS, tmp_path)
    script = (
        "import sys\nfrom pathlib import Path\nfrom diffpo.study.report import write_study_report\n"
        "write_study_report(Path(sys.argv[1]))\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)
    for name in ("table.md", "trajectories-walk.svg", "ends-walk.svg"):
        assert (tmp_path / name).read_text() == (undisturbed / "results" / name).read_text()
    table = (tmp_path / "table.md").read_text()
    assert "| 2-MF+IS | temperature 1 | 0 1 |" in table and "| arm | 0 % | 25 % | 50 % | 75 % | 100 % |" in table
    for name, panels in (("trajectories", 2), ("ends", 3)):  # an arm each, a rule each
        figure = (tmp_path / f"{name}-walk.svg").read_text()
        assert figure.startswith("<svg") and figure.count("<g transform") == panels and "2-MF+IS" in figure


def test_the_figures_are_means_over_seeds(undisturbed: Path) -> None:
    lines = lines_in(undisturbed / "results")
    for found in trajectories(lines):
        members = [line for line in lines if line["arm"] == found.arm]
        assert list(found.seeds) == [0, 1] and list(found.shares) == SHARES
        for index, point in enumerate(found.points):
            each = [
                rule["accuracy"]
                for line in members
                for rule in line["points"][index]["rules"]
                if rule["rule"] == found.rule
            ]
            assert point.by_seed == pytest.approx(each)
            assert point.accuracy.value == pytest.approx(np.mean(each))
            assert point.accuracy.ci95[0] <= point.accuracy.value <= point.accuracy.ci95[1]


def an_end(arm: str, seed: int, *solved: int) -> dict[str, Any]:
    rules = [{"rule": "entropy bound 0", "solved": list(solved), "nfe_rows": [4] * len(solved)}]
    clusters = [str(problem) for problem in range(len(solved))]
    point = {"share": 1.0, "step": 9, "calls": 500, "rules": rules}
    return {"task": "walk", "arm": arm, "seed": seed, "clusters": clusters, "points": [point]}


def test_arms_are_compared_problem_by_problem_and_seed_by_seed() -> None:
    """Problems and seeds differ much and the arms by exactly one problem in four: so there is no doubt about that."""
    lines = [an_end("a", 0, 1, 0, 0, 0), an_end("a", 1, 1, 1, 0, 0), an_end("a", 2, 0, 0, 0, 0)]
    lines += [an_end("b", 1, 1, 1, 1, 1), an_end("b", 0, 1, 1, 0, 1)]
    (found,) = differences(lines, "a")
    assert (found.arm, found.against, found.seeds) == ("b", "a", (0, 1))
    assert found.gain.value == pytest.approx(0.5)
    assert found.gain.ci95[0] >= 0, "no problem was lost"
    (back,) = differences([line for line in lines if line["seed"] < 2], "b")
    assert back.gain.value == pytest.approx(-0.5)
    same = [line | {"arm": name} for line in lines[:3] for name in ("x", "y")]
    half = 3.18245 / (3 * 4 + 2)  # of twelve rows none differs, which does not mean that none ever does
    assert differences(same, "x")[0].gain.ci95 == pytest.approx((-half, half), rel=1e-4)


def test_the_table_compares_with_the_arms_that_are_named(undisturbed: Path, tmp_path: Path, capfd: Any) -> None:
    shutil.copy(undisturbed / "results" / RUNS, tmp_path)
    write_study_report(tmp_path, against=["mf"])
    (gain,) = (d.gain for d in differences(read_results(tmp_path / RUNS), "mf") if d.rule == "temperature 1")
    assert "## walk: against mf at the end of the budget" in (tmp_path / "table.md").read_text()
    assert f" {points_text(gain)} |" in (tmp_path / "table.md").read_text()
    message = error_of("--out", str(tmp_path), "--report-only", "--against", "mg", capfd=capfd)
    assert "there are no results of an arm mg to compare with; choose from" in message


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to report"):
        write_study_report(tmp_path)


# ---------------------------------------------------------------------------------------------------------- likelihood


def test_a_study_of_likelihoods_before_and_after_training(
    undisturbed: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed / "work" / "bases", here / "work" / "bases")
    recipe = study("kind=likelihood")
    run_study(recipe, here / "results", here / "work", selection=Selection(arms=("base", "mf")))
    lines = lines_in(here / "results")
    names: Sequence[str] = ["boundaries", "many-times-mean-field 4", "mean-field", "two-times-mean-field"]
    assert [(line["arm"], line["seed"], line["estimator"]) for line in lines] == [
        (arm, seed, name) for seed in (0, 1) for arm in ("base", "mf") for name in names
    ]
    for line in lines:
        sums, counts = np.array(line["sums"]), np.array(line["counts"])
        assert sums.shape == counts.shape == (24, 4)
        if line["estimator"] != "boundaries":
            assert counts.sum() == 24 * 4
            assert abs(sums[:, 0]).max() < 1e-4, "tokens of the first call were drawn from the first canvas"
            assert (sums > -1e-4).all()
            assert abs(sums).max() < 1e-4 or line["estimator"] != "many-times-mean-field 4", "4 calls at most: exact"
    for verdict in verdicts(lines):
        pairs = next(line["pairs"] for line in lines if (line["arm"], line["seed"]) == (verdict.arm, verdict.seed))
        assert verdict.falling + verdict.rising + verdict.undecided == len(pairs)
        assert all(0 < pair["boundary"] < pair["call"] for pair in pairs)
    assert "by boundary s" in (here / "results" / "table.md").read_text()
    assert (here / "results" / "kl-walk.svg").read_text().count("<g transform") == 2
    tables_and_figures_are_all_there(here / "results", "kl-walk", capsys)


def tables_and_figures_are_all_there(results: Path, figure: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Do what the command says that is next: a file for each table, with its rows, and the figures."""
    with pytest.raises(SystemExit):
        main(["study", "--out", str(results), "--report-only"])
    told = capsys.readouterr().err
    folder = results / "figures"
    assert told == f"next: diffpo report {results} --figures {folder}\n"
    with pytest.raises(SystemExit) as caught:
        main(told.split()[2:])
    assert not caught.value.code and not (results / "report.html").exists()
    assert (folder / f"study-{figure}.svg").read_text() == (results / f"{figure}.svg").read_text()
    below_headers = re.split(r"\n\| ---[^\n]*", (results / "table.md").read_text())[1:]
    num_rows = [table.partition("\n\n")[0].count("\n|") for table in below_headers]
    files = sorted(folder.glob("*.csv"))
    assert sorted(len(file.read_text().splitlines()) - 1 for file in files) == sorted(num_rows)


@pytest.mark.parametrize("name", ["study-arms", "study-full", "study-likelihood"])
def test_the_built_in_studies_can_run(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(StudyRecipe, name)
    check(recipe, study_runs(recipe, Selection()), StudyPaths(tmp_path))
    assert len(recipe.seeds) >= 3
