"""Evaluation: the same problems under every rule, figures that are the means of their rows, and the learned sampler."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.sudoku import split_of

from diffpo.core.errors import UserError
from diffpo.core.randomness import derive_seed
from diffpo.core.rollout import Rollout
from diffpo.evaluation import loop
from diffpo.evaluation.loop import Outcome, drawn_together, evaluate_decodings
from diffpo.evaluation.run import run_eval
from diffpo.models.manifest import write_manifest
from diffpo.models.model_paths import model_folder
from diffpo.recipes import load_recipe
from diffpo.recipes.stored import stored_task
from diffpo.recipes.tables import EvalRecipe, SftRecipe, SudokuTask
from diffpo.report.sources import read_run
from diffpo.sampling import answering
from diffpo.sampling.answering import answer_bounds, answer_problems, first_call_entropy
from diffpo.sampling.controller import Controller
from diffpo.sampling.controller_files import save_controller
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.policy import load
from diffpo.sampling.rules import EntropyBound, TopK
from diffpo.tasks.base import Grade, Problem, Status
from diffpo.tasks.sudoku import Sudoku
from diffpo.training.sft import run_sft

COUNT, LENGTH = 24, 16
HUGE = 1e9
OPTIONS = [
    f"count={COUNT}",
    f"bounds=[0.0, 2.0, 6.0, {HUGE:.1f}]",
    'rules=[{kind = "top-k", k = 8}]',
    "validation_count=0",
]

Evaluate = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Lenient(Sudoku):
    """Takes about half of all completions for right, so that figures of an untrained model are not all zero."""

    def grade(self, problem: Problem, completion: str) -> Grade:
        is_solved = sum(map(ord, completion)) % 2  # as the sum of its digits
        return Grade(float(is_solved), {"solved": float(is_solved)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt that grids are made of digits: it ends no completion early."""
    run = tmp_path_factory.mktemp("evaluate") / "tiny"
    shape = ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.mlp_hidden_size=32"]
    run_sft(load_recipe(SftRecipe, None, [*shape, "threads=1", "steps=40", "batch=16", "optimizer.lr=0.02"]), run)
    return run


@pytest.fixture(scope="module")
def controlled(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run again, with a learned sampler beside its model whose bounds differ from prompt to prompt."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("controlled") / "tiny"))
    policy = load(run)
    controller = Controller(initial_bound=4.0, hidden=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in controller.head.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    entropies = first_call_entropy(policy, Sudoku().problems("train", 50, seed=0), LENGTH)
    controller.observe(controller.features(entropies), momentum=1.0)
    save_controller(controller, model_folder(run))
    write_manifest(model_folder(run))
    return run


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluate]:
    """Runs the evaluation of a model under some overrides, once, and reads what it has written."""

    @cache
    def record(*overrides: str, model: Path = trained) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("records") / "eval" / "mine.json"
        run_eval(load_recipe(EvalRecipe, None, [*OPTIONS, f"model={json.dumps(str(model))}", *overrides]), out)
        read: dict[str, Any] = json.loads(out.read_text())
        return read | {"path": out}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "diffpo.evaluation.run.build_task", lambda recipe: Lenient(recipe.size, recipe.min_clues, recipe.max_clues)
        )
        yield record


def points(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [*record["points"], *([record["learned"]] if record["learned"] else [])]


def test_one_token_per_call_and_all_in_one(evaluated: Evaluate) -> None:
    slow, *between, fast, two = evaluated()["points"]
    assert slow["nfe_rows"] == [LENGTH] * COUNT and slow["bound"] == 0
    assert fast["nfe_rows"] == [1] * COUNT and fast["bound"] == HUGE
    assert two["nfe_rows"] == [2] * COUNT and two["bound"] is None
    assert all(1 < point["nfe"] < LENGTH for point in between)
    assert len({point["rule"] for point in (slow, *between, fast, two)}) == 5


def test_a_huge_bound_takes_one_call_per_block(evaluated: Evaluate) -> None:
    assert evaluated("block_length=4")["points"][-2]["nfe_rows"] == [LENGTH / 4] * COUNT


def test_slots_reach_the_sampler_and_change_nothing(evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def spy(*arguments: Any) -> Rollout:
        asked.append(arguments[3].max_in_flight)
        return sample(*arguments)

    expected = evaluated()["points"]
    monkeypatch.setattr(answering, "sample", spy)
    found = evaluated("max_in_flight=3")
    assert found["points"] == expected
    assert (found["cache"], found["block_length"]) == ("none", found["completion_length"])
    assert set(asked) == {3}


def test_a_cache_reaches_the_sampler_and_must_have_blocks(evaluated: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def spy(*arguments: Any) -> Rollout:
        asked.append(arguments[3].cache)
        return sample(*arguments)

    monkeypatch.setattr(answering, "sample", spy)
    points = evaluated("cache=dual", "block_length=4")["points"]
    assert set(asked) == {"dual"}
    assert points[-2]["nfe_rows"] == [LENGTH / 4] * COUNT
    with pytest.raises(UserError, match="the completion is one block; set block_length below"):
        evaluated("cache=dual")


def test_every_rule_meets_the_same_problems_of_the_split(
    evaluated: Evaluate, controlled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: dict[Decoding, list[Problem]] = {}

    def spied(answer: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*arguments: Any) -> Any:
            met.setdefault(arguments[3], []).extend(arguments[2])
            return answer(*arguments)

        return spy

    for function in (answer_problems, answer_bounds):
        monkeypatch.setattr(loop, function.__name__, spied(function))
    record = evaluated("batch=7", model=controlled)
    first, *others = met.values()
    assert len(others) == 2 and all(problems == first for problems in others), "four bounds, top-k, the controller"
    assert len({problem.id for problem in first}) == COUNT
    assert {split_of(problem.answer) for problem in first} == {"test"}
    assert record["clusters"] == [problem.answer for problem in first]
    assert record["clues"] == [problem.facts["clues"] for problem in first]


def test_figures_are_the_means_of_their_rows(evaluated: Evaluate, controlled: Path) -> None:
    for point in points(evaluated(model=controlled)):
        assert point["n"] == len(point["solved"]) == len(point["nfe_rows"]) == COUNT
        assert 0 < point["accuracy"] < 1
        for key, rows, interval in (("accuracy", "solved", "ci95"), ("nfe", "nfe_rows", "nfe_ci95")):
            assert point[key] == pytest.approx(sum(point[rows]) / COUNT)
            assert point[interval][0] <= point[key] <= point[interval][1]


def test_the_batch_size_changes_nothing(evaluated: Evaluate, controlled: Path) -> None:
    whole, cut = (evaluated(f"batch={batch}", model=controlled) for batch in (256, 7))
    for mine, theirs in zip(points(whole), points(cut), strict=True):
        assert all(mine[key] == theirs[key] for key in ("rule", "solved", "nfe_rows"))
    assert whole["learned"]["bounds"] == pytest.approx(cut["learned"]["bounds"], rel=1e-4)
    assert [c["completion"] for c in whole["playback"]] == [c["completion"] for c in cut["playback"]]


TOGETHER = {
    **{f"bound {bound:g}": Decoding(EntropyBound(bound), LENGTH, LENGTH) for bound in (0.0, 0.3, 1.0, 3.0, HUGE)},
    "top-k": Decoding(TopK(3), LENGTH, LENGTH),
    "plain sum": Decoding(EntropyBound(1.0, subtract_max=False), LENGTH, LENGTH),
    "blocks": Decoding(EntropyBound(1.0), LENGTH, 4),
    "drawn": Decoding(EntropyBound(1.0), LENGTH, LENGTH, temperature=1.0),
    "drawn slowly": Decoding(EntropyBound(0.0), LENGTH, LENGTH, temperature=1.0),
}


def test_decodings_that_differ_in_their_bound_alone_share_batches() -> None:
    @dataclass(frozen=True)
    class Own(EntropyBound):
        """A rule of one's own, which may do anything with the bounds of rows."""

    own = {"own": Decoding(Own(1.0), LENGTH, LENGTH), "own too": Decoding(Own(2.0), LENGTH, LENGTH)}
    bounds = list(TOGETHER)[:5]
    others = [["top-k"], ["plain sum"], ["blocks"], ["drawn", "drawn slowly"], ["own"], ["own too"]]
    assert drawn_together(TOGETHER | own, 5) == [bounds, *others]
    assert drawn_together(TOGETHER | own, 3) == [bounds[:3], bounds[3:], *others]
    assert drawn_together(TOGETHER, 1) == [[name] for name in TOGETHER]


@pytest.mark.parametrize("batch_size", [256, 11, 3, pytest.param(1, marks=pytest.mark.slow)])
def test_results_are_those_of_each_decoding_alone(trained: Path, batch_size: int) -> None:
    policy, task = load(trained), Lenient()
    problems = task.problems("test", 7, seed=3)
    seeds = torch.arange(len(problems))
    shown: list[Outcome] = []
    progress: list[int] = []
    found = evaluate_decodings(policy, task, problems, TOGETHER, batch_size, seeds, shown.append, progress.append)
    assert [outcome.name for outcome in found] == list(TOGETHER) and sorted(map(id, shown)) == sorted(map(id, found))
    assert progress == sorted(progress) and progress[-1] == len(TOGETHER) * len(problems)
    for outcome, decoding in zip(found, TOGETHER.values(), strict=True):
        rollout, grades = answer_problems(policy, task, problems, decoding, seeds)
        assert outcome.grades == tuple(grades)
        for name, value in vars(outcome.rollout).items():
            torch.testing.assert_close(value, getattr(rollout, name), equal_nan=True)


def test_equal_answers_to_a_problem_are_graded_once(trained: Path) -> None:
    graded: list[tuple[str, str]] = []

    class Counting(Lenient):
        def grade(self, problem: Problem, completion: str) -> Grade:
            graded.append((problem.id, completion))
            return super().grade(problem, completion)

    problems = Sudoku().problems("test", 7, seed=3)
    decodings = dict(list(TOGETHER.items())[:5])
    evaluate_decodings(load(trained), Counting(), problems, decodings)
    assert len(graded) == len(set(graded)) < len(problems) * len(decodings)


def test_seeds_choose_the_problems(evaluated: Evaluate) -> None:
    first, again, other = (evaluated(f"seed={seed}") for seed in ("0", "0x0", "2"))
    assert first["path"] != again["path"] and first | {"path": again["path"]} == again
    assert first["clusters"] != other["clusters"]


def test_the_learned_sampler_beside_a_model_chooses_its_own_bounds(evaluated: Evaluate, controlled: Path) -> None:
    without, record = evaluated(), evaluated(model=controlled)
    assert without["learned"] is None and without["gain"] is None
    assert record["points"] == without["points"]

    policy = load(controlled)
    controller = policy.controller
    assert isinstance(controller, Controller)
    problems = Sudoku().problems("test", COUNT, derive_seed(0, "eval"))
    features = controller.features(first_call_entropy(policy, problems, LENGTH))
    with torch.no_grad():
        mean = controller.log_bound(features).loc.exp()
    learned = record["learned"]
    assert learned["bounds"] == pytest.approx(mean.tolist(), rel=1e-4)
    assert len(set(learned["bounds"])) > COUNT / 2
    assert learned["nfe_rows"] not in [point["nfe_rows"] for point in record["points"]]
    assert [played["entropy_bound"] for played in record["playback"]] == [
        learned["bounds"][played["row"]] for played in record["playback"]
    ]
    assert {played["rule"] for played in record["playback"]} == {learned["rule"]}


def test_by_clues_is_a_partition_of_the_rows(evaluated: Evaluate, controlled: Path) -> None:
    record = evaluated(model=controlled)
    learned, groups = record["learned"], record["learned"]["by_clues"]
    assert {group["clues"]: group["n"] for group in groups} == Counter(record["clues"])
    assert sum(group["n"] for group in groups) == COUNT
    for key in ("accuracy", "nfe"):
        assert sum(group["n"] * group[key] for group in groups) / COUNT == pytest.approx(learned[key])


@dataclass(frozen=True)
class Failing(Sudoku):
    """Reads no answer to puzzles of an even number of clues, and fails on those of 9."""

    def grade(self, problem: Problem, completion: str) -> Grade:
        clues = int(problem.facts["clues"])
        status: Status = "grader_failed" if clues == 9 else "ok" if clues % 2 else "unparseable"
        return Grade(0.0, {"solved": 0.0}, status)


def test_answers_that_were_not_read_are_counted_and_failures_are_told(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffpo.evaluation.run.build_task", lambda recipe: Failing(recipe.size))
    model = f"model={json.dumps(str(trained))}"
    said = run_eval(
        load_recipe(EvalRecipe, None, ["count=40", "bounds=[1e9, 1e8]", "validation_count=0", model]),
        tmp_path / "mine.json",
    )
    record = json.loads((tmp_path / "mine.json").read_text())
    failed, even = record["clues"].count(9), sum(clues % 2 == 0 for clues in record["clues"])
    assert 0 < failed != even > 0
    for point in record["points"]:
        assert (point["grader_failed"], point["unparseable"]) == (failed, even)
    assert said.count(f"grader failed on {failed} of 40") == 2


def test_the_report_reads_the_record(evaluated: Evaluate, controlled: Path) -> None:
    record = evaluated(model=controlled)
    run = read_run(record["path"].parents[1])
    (arm,) = run.arms
    assert (arm.name, run.task, run.split, run.seed) == ("mine", "sudoku4", "test", 0)
    assert run.completion_length == LENGTH
    assert [point.accuracy for point in arm.points] == [point["accuracy"] for point in record["points"]]
    assert arm.learned is not None and list(arm.learned.bounds) == record["learned"]["bounds"]
    assert arm.area is not None and arm.aup is not None and arm.gain is not None
    rows = [played["row"] for played in record["playback"]]
    assert [completion.nfe for completion in arm.playback] == [record["learned"]["nfe_rows"][row] for row in rows]
    assert [completion.difficulty for completion in arm.playback] == [f"{record['clues'][row]} clues" for row in rows]


def test_the_report_reads_records_without_counts_of_failures(evaluated: Evaluate, tmp_path: Path) -> None:
    record = evaluated()
    old = {key: value for key, value in record.items() if key not in ("path", "prompts_too_long")}
    new_keys = ("unparseable", "grader_failed")
    old["points"] = [{key: point[key] for key in point.keys() - new_keys} for point in record["points"]]
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "mine.json").write_text(json.dumps(old))
    assert read_run(tmp_path).arms == read_run(record["path"].parents[1]).arms


def test_a_run_and_its_checkpoint_know_the_task_they_were_trained_on(trained: Path) -> None:
    assert stored_task(trained) == stored_task(model_folder(trained)) == SudokuTask()


def test_a_playback_ends_in_the_completion_that_was_graded(evaluated: Evaluate) -> None:
    record = evaluated()
    best = max(point["accuracy"] for point in record["points"])
    replayed = min((p for p in record["points"] if p["accuracy"] > best - 0.01), key=lambda p: p["nfe"])
    assert record["playback"] != []
    for completion in record["playback"]:
        row = completion["row"]
        assert completion["rule"] == replayed["rule"] and completion["clues"] == record["clues"][row]
        assert record["clues"].index(completion["clues"]) == row, "the first of its difficulty, and not a chosen one"
        assert (completion["nfe"], completion["solved"]) == (replayed["nfe_rows"][row], replayed["solved"][row])
        assert sum(map(int, completion["completion"])) % 2 == completion["solved"]
        assert "".join(completion["tokens"]) == completion["completion"] and completion["special"] == []
        assert max(completion["unmask_step"]) + 1 == completion["nfe"]
        assert len(completion["unmask_step"]) == len(completion["completion"]) == LENGTH
