"""What a report is made of: any mixture of runs, records, studies and demos, under names of their own."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.records import LENGTH, PROBLEMS, record, result, rows, write_record, write_run

from diffpo.core.errors import UserError
from diffpo.report.page import render
from diffpo.report.sources import read_run, read_sources
from diffpo.report.write import write_report, write_reports
from diffpo.statistics.comparison import Frontiers, compare_frontiers


def names(*paths: Path) -> list[str]:
    (run,) = read_sources(paths)
    return [arm.name for arm in run.arms]


def test_an_evaluation_beside_a_run_is_found_and_asked_for_where_it_is_not_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", None)
    before = read_run(run)
    assert before.notes == ("Not evaluated: a; diffpo eval writes the record that this page then shows.",)
    write_record(run / "eval.json", 0.8)
    (arm,) = read_run(run).arms
    assert arm.is_evaluated and arm.seeds == (3,) and arm.task == "walk" and arm.num_problems == PROBLEMS
    assert arm.train_denoiser_calls == 30 and len(arm.metrics) == 3
    assert "Nothing was evaluated" not in write_report(run).read_text()


def test_a_folder_has_its_runs_and_records_as_arms(tmp_path: Path) -> None:
    write_run(tmp_path / "b", 0.7)
    write_run(tmp_path / "a10", 0.6)
    write_run(tmp_path / "a9", 0.5)
    write_run(tmp_path / "z-base", 0.4, 'weighting = "uniform"\n')
    write_record(tmp_path / "eval-LLaDA-8B.json", 0.3)
    write_record(tmp_path / "b" / "checkpoint-7" / "eval.json", 0.2)
    write_record(tmp_path / "b" / "eval-cold.json", 0.2)
    found = names(tmp_path)
    assert found == ["z-base", "LLaDA-8B", "a9", "a10", "b", "b cold", "b checkpoint-7"], "what others start from first"


def test_equal_names_are_told_apart_by_their_folders_and_one_path_is_one_arm(tmp_path: Path) -> None:
    for where in ("x/d1", "y/d1", "y/other"):
        write_run(tmp_path / where, 0.5)
    assert names(tmp_path / "x", tmp_path / "y") == ["x/d1", "y/d1", "other"]
    assert names(tmp_path / "x" / "d1", tmp_path / "x", tmp_path / "x" / "d1" / "metrics.jsonl") == ["d1"]
    first, second = (write_record(tmp_path / name / "a.json", 0.5) for name in ("m", "n"))
    assert names(first, second, tmp_path / "y" / "other") == ["m/a", "n/a", "other"]


def test_the_arm_of_the_largest_area_is_compared_with_the_others(tmp_path: Path) -> None:
    paths = [write_record(tmp_path / f"{name}.json", skill) for name, skill in (("low", 0.4), ("high", 0.9))]
    (run,) = read_sources(paths)

    def frontiers(skill: float) -> Frontiers:
        solved, nfe = (np.array([row[key] for row in rows(skill)]).T[:, None] for key in ("solved", "nfe_rows"))
        return Frontiers(solved.astype(float), nfe.astype(float))

    clusters = [f"p{i}" for i in range(PROBLEMS)]
    assert run.main == "high"
    assert run.compared["low"] == compare_frontiers(frontiers(0.9), frontiers(0.4), clusters, LENGTH)
    assert run.compared["low"].area.ci95[0] > 0
    (turned,) = read_sources(paths[::-1])
    assert turned.main == "high" and turned.compared == run.compared
    low, high = run.arms
    assert low.aup is not None and low.aup.value < 40, "scaled by the best of both"
    assert high.aup == turned.arms[0].aup
    best = max(point.accuracy for point in high.points)
    assert low.aup_best == high.aup_best == pytest.approx(best), "and it is said"
    told = f"the best accuracy of fixed rules among the arms on this page, {100 * best:.1f} %"
    page = render(run)
    assert page.count(told) == 2 and page.count(f"AUP, relative to {100 * best:.1f} %,") == 2
    alone = read_sources(paths[:1])[0].arms[0]
    assert alone.aup != low.aup and alone.aup_best != low.aup_best
    base = write_record(tmp_path / "base.json", 0.99)
    assert read_sources([base, paths[0]])[0].main == "low", "others start from the base"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"clusters": [f"q{i}" for i in range(PROBLEMS)]}, "they met other problems"),
        ({"completion_length": 16}, "another completion length"),
        ({"clusters": []}, "do not hold what each problem gave"),
    ],
)
def test_what_cannot_be_paired_is_shown_and_said(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    other = write_record(tmp_path / "other.json", 0.5, **changes)
    (run,) = read_sources([other, write_record(tmp_path / "main.json", 0.6)])
    assert run.compared == {} and len(run.arms) == 2
    assert any("Not compared with main problem by problem: other" in note and told in note for note in run.notes)
    assert told in write_reports([other, tmp_path / "main.json"])[0].read_text()


def test_each_task_has_a_page_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", 0.5)
    write_run(tmp_path / "runs" / "waiting", None)
    write_record(tmp_path / "runs" / "b" / "eval.json", 0.5, task="sudoku 4/../x")
    walk, sudoku = write_reports([tmp_path / "runs"])
    assert (walk.name, sudoku.name) == ("report-walk.html", "report-sudoku-4-..-x.html")
    assert walk.parent == sudoku.parent == tmp_path / "runs"
    page = walk.read_text()
    assert "There are 2 tasks (walk, sudoku 4/../x), which cannot be compared" in page
    assert "Not evaluated: waiting;" in page and "waiting" not in sudoku.read_text()


def test_a_study_is_read_with_its_seeds(tmp_path: Path) -> None:
    lines = [result("walk", arm, seed, skill) for arm, skill in (("d1", 0.5), ("ours", 0.9)) for seed in (0, 1)]
    lines += [result("sudoku", "d1", 0, 0.5)]
    results = tmp_path / "runs.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    walk, sudoku = read_sources([tmp_path])
    assert [arm.name for arm in walk.arms] == ["base", "d1", "ours"] and [a.name for a in sudoku.arms] == ["base", "d1"]
    ours = walk.arms[-1]
    assert ours.seeds == (0, 1) and ours.train_denoiser_calls == 240 and ours.rows is not None
    solved = np.mean([rows(0.9, seed)[0]["solved"] for seed in (0, 1)])
    assert ours.points[0].accuracy == pytest.approx(solved) and ours.points[0].ci95[0] < solved < ours.points[0].ci95[1]
    assert walk.main == "ours" and set(walk.compared) == {"base", "d1"}
    assert any("3 of 8 runs are not here" in note for note in walk.notes)
    page, other = write_reports([results], tmp_path / "out.html")
    assert (page.name, other.name) == ("out-walk.html", "out-sudoku.html")
    assert f"n = {PROBLEMS} problems, 2 seeds" in page.read_text() and f"{PROBLEMS} x 2 seeds" in page.read_text()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none", None, "none: no such run or record; give a run's folder"),
        ("empty/", None, "empty: nothing to report (no metrics.jsonl"),
        ("a.json", '{"accuracy": 1}', "a.json: no record of an evaluation"),
        ("a.json", '{"points": [{"rule": "x"}]}', "a.json: the field 'points[0].accuracy' is missing"),
        ("a.txt", "", "a.txt: neither an evaluation's record nor a run's file"),
        ("runs.jsonl", '{"kind": "arms", "task": "walk"}\n', "runs.jsonl:1: the field 'arm' is missing"),
        ("runs.jsonl", '{"kind": "arms", "task": "walk", "arm": "a"}\n', "runs.jsonl:1: the field 'seed' is missing"),
        ("runs.jsonl", '{"kind": "likelihood"}\n{"kind"', "runs.jsonl:2: not JSON"),
        ("runs.jsonl", '{"kind": "other"}\n', "runs.jsonl:1: no result of a study"),
        ("runs.jsonl", '{"kind": "likelihood"}\n', "runs.jsonl: no arms to report; a study of likelihoods"),
        ("recipe.toml", "= 3", "recipe.toml: no TOML that can be read"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: str | None, told: str) -> None:
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        read_sources([path])
    assert str(error.value).startswith(f"{tmp_path}/{told}") and "\n" not in str(error.value)


def test_rows_that_do_not_fit_their_problems_are_refused(tmp_path: Path) -> None:
    found = record(0.5)
    found["points"][1]["solved"].pop()
    (tmp_path / "a.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"a\.json: the field 'points\[1\]\.solved' .*for each of 40 problems"):
        read_sources([tmp_path / "a.json"])
