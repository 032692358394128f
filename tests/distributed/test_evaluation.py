"""Evaluations and files of prompts on two and four processes against one: the same records, the same lines."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.forked import Forked

from diffpo.core.errors import UserError
from diffpo.distributed.collectives import process_group
from diffpo.distributed.process import current_process
from diffpo.evaluation import sample_file as completing
from diffpo.evaluation.loop import Outcome, evaluate_decodings
from diffpo.evaluation.run import run_eval
from diffpo.evaluation.sample_file import run_sample_file
from diffpo.evaluation.sample_settings import SampleSettings
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import DeviceSettings, EvalRecipe
from diffpo.sampling.controller import Controller
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import load, save
from diffpo.sampling.rules import EntropyBound, LowConfidence
from diffpo.tasks.sudoku import Sudoku

SIZES = (1, 2, 4)
TIMEOUT = 240
LENGTH = 16
FEW = 3
"""Problems, fewer than four processes."""
OPTIONS = [
    "threads=1",
    "bounds=[0.0, 1.0, 1e9]",
    'rules=[{kind = "top-k", k = 8}]',
    "task={min_clues=13, max_clues=15}",
]
PROBLEMS = Sudoku(min_clues=13, max_clues=15).problems("test", 5, seed=0)
DECODINGS = {
    "greedy": Decoding(EntropyBound(0.5), LENGTH, LENGTH),
    "bolder": Decoding(EntropyBound(2.0), LENGTH, LENGTH),
    "drawn": Decoding(EntropyBound(0.5), LENGTH, LENGTH, temperature=1.0),
    "drawn anew": Decoding(LowConfidence(4), LENGTH, LENGTH, temperature=1.0),
}


def eval_recipe(model: Path, *overrides: str) -> EvalRecipe:
    return load_recipe(EvalRecipe, None, [*OPTIONS, f"model={json.dumps(str(model))}", *overrides])


def sample_file(model: Path, file: Path, out: Path, **settings: Any) -> str:
    return run_sample_file(str(model), file, out, SampleSettings(LENGTH, **settings), DeviceSettings(threads=1))


# --------------------------------------------------------------------------------------------- in each of the processes


def outcome(work: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    try:
        work(*arguments, **options)
    except Exception as error:  # noqa: BLE001  what it was is the result
        return f"{type(error).__name__}: {error}"
    return "done"


@process_group()
def share(folder: Path, model: Path, prompts: Path) -> None:
    """Do all cases as one of several processes, into a folder of theirs; how each ended goes to a file of its own."""
    torch.set_num_threads(1)
    here = current_process()
    out = folder / str(here.world_size)
    found = {
        "eval": outcome(run_eval, eval_recipe(model, "count=7", "validation_count=6", "batch=5"), out / "eval.json"),
        "few": outcome(run_eval, eval_recipe(model, f"count={FEW}", "validation_count=0"), out / "few.json"),
        "drawn": outcome(draw, model, out),
        "file": outcome(sample_file, model, prompts, out / "file.jsonl", temperature=1.0, seed=7, batch=2),
        "wrong place": outcome(run_eval, eval_recipe(model, "count=4"), model / "recipe.toml"),
    }
    with pytest.MonkeyPatch.context() as patch:
        if here.rank == here.world_size - 1:
            patch.setattr(Sudoku, "grade", raising(UserError("a grader's file is gone")))
        found["grader"] = outcome(run_eval, eval_recipe(model, "count=8"), out / "grader.json")
    with pytest.MonkeyPatch.context() as patch:
        if here.rank == here.world_size - 1:
            patch.setattr(completing, "sample", raising(RuntimeError("a bug")))
        found["bug"] = outcome(sample_file, model, prompts, out / "bug.jsonl")
    other = eval_recipe(model, "count=4", f"seed={here.rank}")
    found["other recipe"] = outcome(run_eval, other, out / "other.json")
    own_file = prompts.with_stem(f"own-{here.rank}")
    own_file.write_text(json.dumps({"prompt": PROBLEMS[here.rank].prompt}) + "\n", encoding="utf-8")
    found["other prompts"] = outcome(sample_file, model, own_file, out / "other.jsonl")
    (folder / f"outcomes-{here.world_size}-{here.rank}.json").write_text(json.dumps(found))


def draw(model: Path, out: Path) -> None:
    """Answer each problem three times, at temperatures 0 and 1, and keep all that came of it, in every process."""
    problems = [problem for problem in PROBLEMS for _ in range(3)]
    seeds = torch.arange(len(problems)) + 100
    outcomes = evaluate_decodings(load(model), Sudoku(min_clues=13, max_clues=15), problems, DECODINGS, 4, seeds)
    (out / f"drawn-{current_process().rank}.json").write_text(json.dumps([plain(outcome) for outcome in outcomes]))


def plain(outcome: Outcome) -> dict[str, Any]:
    columns = {name: value.tolist() for name, value in vars(outcome.rollout).items()}
    return {"name": outcome.name, "grades": [vars(grade) for grade in outcome.grades], **columns}


def raising(error: Exception) -> Callable[..., None]:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it


# --------------------------------------------------------------------------------------------------------- the parent


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one, two and four processes have done all cases, one after another."""
    folder = tmp_path_factory.mktemp("evaluations")
    policy = load(base)
    controlled = folder / "model"
    save(type(policy)(policy.denoiser, policy.tokenizer, Controller(initial_bound=0.7, hidden=8)), controlled)
    prompts = folder / "prompts.jsonl"
    lines = [{"prompt": problem.prompt, "n": number} for number, problem in enumerate(PROBLEMS)]
    prompts.write_text("\n".join(map(json.dumps, [*lines, *lines[:1]])) + "\n", encoding="utf-8")
    for size in SIZES:
        (folder / str(size)).mkdir()
        processes = [
            start(share, size, rank, folder, controlled, prompts, port)
            for port in [free_port()]
            for rank in range(size)
        ]
        try:
            for process in processes:
                process.wait(TIMEOUT)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for rank in range(size):
            assert (folder / f"outcomes-{size}-{rank}.json").exists(), (folder / f"err-{size}-{rank}").read_text()
    return folder


def start(
    work: Callable[..., Any], size: int, rank: int, folder: Path, model: Path, prompts: Path, port: int
) -> Forked:
    ranks = {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | (ranks if size > 1 else {})
    out, errors = folder / f"out-{size}-{rank}", folder / f"err-{size}-{rank}"
    return Forked(work, folder, model, prompts, stdout=out, stderr=errors, environment=environment)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[int, dict[str, list[str]]]:
    """How each case ended in every process, by the number of processes."""
    found = {
        size: [json.loads((folder / f"outcomes-{size}-{rank}.json").read_text()) for rank in range(size)]
        for size in SIZES
    }
    return {size: {case: [each[case] for each in of_size] for case in of_size[0]} for size, of_size in found.items()}


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("name", ["eval.json", "few.json", "drawn-0.json"])
def test_a_record_is_that_of_one_process(
    name: str, size: int, folder: Path, outcomes: dict[int, dict[str, list[str]]]
) -> None:
    case = name.partition(".")[0].partition("-")[0]
    assert outcomes[1][case] == ["done"] and outcomes[size][case] == ["done"] * size
    expected, found = (json.loads((folder / each / name).read_text()) for each in ("1", str(size)))
    assert found == approximately(expected)
    if case != "drawn":
        assert expected["learned"]["nfe_rows"] and expected["points"][0]["n"] == (FEW if case == "few" else 7)


def approximately(value: Any) -> Any:
    """The same, with floats up to the rounding of products of other numbers of rows."""
    if isinstance(value, dict):
        return {key: approximately(item) for key, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True) if isinstance(value, float) else value


@pytest.mark.parametrize("size", SIZES[1:])
def test_all_processes_have_all_outcomes(size: int, folder: Path, outcomes: dict[int, dict[str, list[str]]]) -> None:
    assert outcomes[size]["drawn"] == ["done"] * size
    found = [(folder / str(size) / f"drawn-{rank}.json").read_text() for rank in range(size)]
    assert set(found) == {found[0]}
    drawn = json.loads(found[0])[2]["completion_ids"]
    assert len(drawn) == 15 and drawn[0] != drawn[1], "each sample of a problem has random numbers of its own"


@pytest.mark.parametrize("size", SIZES[1:])
def test_the_lines_of_a_file_are_those_of_one_process(
    size: int, folder: Path, outcomes: dict[int, dict[str, list[str]]]
) -> None:
    assert outcomes[1]["file"] == ["done"] and outcomes[size]["file"] == ["done"] * size
    found = (folder / str(size) / "file.jsonl").read_text()
    assert found == (folder / "1" / "file.jsonl").read_text()
    lines = [json.loads(line) for line in found.splitlines()]
    assert [(line["n"], line["seed"]) for line in lines] == [(0, 7), (1, 8), (2, 9), (3, 10), (4, 11), (0, 12)]
    assert lines[0]["completion"] != lines[5]["completion"], "the same prompt with another seed"


@pytest.mark.parametrize("size", SIZES[1:])
def test_what_fails_in_one_process_ends_all(size: int, folder: Path, outcomes: dict[int, dict[str, list[str]]]) -> None:
    found = outcomes[size]
    assert found["grader"] == ["UserError: a grader's file is gone"] * size
    others = [f"PeerFailedError: process {size - 1} failed: RuntimeError: a bug"] * (size - 1)
    assert found["bug"] == [*others, "RuntimeError: a bug"]
    assert (
        found["wrong place"] == [found["wrong place"][0]] * size and "choose another --out" in found["wrong place"][0]
    )
    same = "start all processes with the same command, files and libraries"
    assert found["other recipe"] == [f"UserError: process 1 has another recipe than process 0; {same}"] * size
    assert found["other prompts"] == [f"UserError: process 1 has another data than process 0; {same}"] * size
    written = {file.name for file in (folder / str(size)).iterdir()}
    assert written == {"eval.json", "few.json", "file.jsonl", *(f"drawn-{rank}.json" for rank in range(size))}


@pytest.mark.parametrize("size", SIZES)
def test_the_first_process_alone_speaks(size: int, folder: Path) -> None:
    told = [(folder / f"out-{size}-{rank}").read_text() for rank in range(size)]
    assert "eval model" in told[0] and "sample prompts.jsonl" in told[0]
    assert told[1:] == [""] * (size - 1)
