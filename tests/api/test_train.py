"""`diffpo.train`: runs from functions and rows in memory, which go on, are reported and evaluated as any other."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.api.conftest import ROWS, TINY
from tests.helpers.tiny_runs import snapshot

import diffpo
from diffpo import TrainedRun, UserError
from diffpo.cli.main import main
from diffpo.models.model_paths import RECIPE, REWARD_SOURCE
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import RlRecipe, TextTaskRecipe


def right(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    return [float(text == gold) for text, gold in zip(completions, answer, strict=True)]


async def brief(completions: list[str], nfe: list[int], **_: Any) -> list[float]:
    await asyncio.sleep(0)
    return [1 / calls for calls in nfe]


def state_of_the_process() -> list[object]:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    modes = [torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()]
    return [*handlers, *modes, torch.get_rng_state().tolist(), logging.getLogger().handlers[:], os.getcwd()]


@pytest.fixture(autouse=True)
def unchanged_process() -> Iterator[None]:
    """Every call of this file leaves the process as it was, also where it raises."""
    torch.set_num_threads(2)
    before = state_of_the_process()
    yield
    assert state_of_the_process() == before
    torch.set_num_threads(1)


def test_the_stored_recipe_says_what_the_run_was(short: dict[str, Any], tmp_path: Path) -> None:
    run = diffpo.train(**short, reward={right: 1.0, brief: 0.25}, out=tmp_path / "run", threads=1)
    stored = load_recipe(RlRecipe, str(tmp_path / "run" / RECIPE))
    task = stored.task
    assert isinstance(task, TextTaskRecipe) and isinstance(task.reward, dict)
    assert task.source == str(tmp_path / "run" / "rows.jsonl") and task.completion_length == 4
    assert [name.partition("#")[0] for name in task.reward] == [
        "tests.api.test_train:right",
        "tests.api.test_train:brief",
    ]
    assert [*task.reward.values()] == [1.0, 0.25]
    assert dump_recipe(stored) == dump_recipe(run.recipe) and run.kind == "rl" and stored.budget.steps == 2
    assert (tmp_path / "run" / "rows.jsonl").read_text().splitlines()[9] == '{"prompt": "bb>", "answer": "bb"}'
    for step in run.metrics:
        parts = step["rewards/right/mean"] + 0.25 * step["rewards/brief/mean"]
        assert step["reward"] == pytest.approx(parts) and step["rewards/brief/mean"] > 0
    assert [step["step"] for step in run.metrics] == [1, 2]
    assert torch.get_num_threads() == 2, "the recipe asked for one, in the call alone"
    assert repr(run).startswith(f"<rl run {tmp_path}/run, step 2, loss ") and len(repr(run)) < 250


def test_a_run_goes_on_from_python_as_if_it_had_not_stopped(short: dict[str, Any], tmp_path: Path) -> None:
    offset = 0.5

    def local(completions: list[str], **_: Any) -> list[float]:
        return [offset + len(text) for text in completions]

    whole = diffpo.train(**short, reward=local, out=tmp_path / "whole")
    short["budget"] = {"steps": 1}
    diffpo.train(**short, reward=local, out=tmp_path / "parts")
    short["budget"] = {"steps": 2}
    options: dict[str, Any] = {"reward": local, "out": tmp_path / "parts"}
    with pytest.raises(UserError, match=r"add extend=True to go on"):
        diffpo.train(**short, **options, resume=True)
    with pytest.raises(UserError, match=r"already holds a run; go on with it by resume=True, or choose another out"):
        diffpo.train(**short, **options)
    parts = diffpo.train(**short, **options, resume=True, extend=True)
    found, expected = snapshot(parts.folder), snapshot(whole.folder)
    assert found.keys() == expected.keys() and [line["reward"] for line in parts.metrics] == [
        line["reward"] for line in whole.metrics
    ]


def test_a_local_function_is_recorded_and_only_python_goes_on_with_it(
    short: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def local(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    out = tmp_path / "run"
    run = diffpo.train(**short, reward=local, out=out)
    name = getattr(run.recipe.task, "reward")  # noqa: B009  not every task has one
    assert name.startswith("python:local#") and name in (out / RECIPE).read_text()
    assert "return [float(len(text)) for text in completions]" in (out / REWARD_SOURCE).read_text()
    for arguments in ([str(out / RECIPE)], ["tiny-d1", f"base={short['base'].folder}"]):
        with pytest.raises(SystemExit) as ended:
            main(["rl", *arguments, "--out", str(out), "--resume"])
        told = capsys.readouterr().err
        assert ended.value.code == 2 and told.count("\n") == 1
        assert "local" in told and "go on from Python" in told and "resume=True" in told

    def local(completions: list[str], **_: Any) -> list[float]:  # type: ignore[no-redef]
        return [2.0 * len(text) for text in completions]

    with pytest.raises(UserError, match=f"the reward local, whose source is in {out / REWARD_SOURCE}, and this is an"):
        diffpo.train(**short, reward=local, out=out, resume=True)
    with pytest.raises(UserError, match="the rows are not those that"):
        diffpo.train(**{**short, "data": ROWS[:40]}, reward=local, out=out, resume=True)


def test_what_a_reward_leaves_out_is_left_out_of_its_mean(short: dict[str, Any], tmp_path: Path) -> None:
    def of_some(completions: list[str], **_: Any) -> list[float | None]:
        return [None, *(2.0 for _ in completions[1:])]

    run = diffpo.train(**short, reward=[of_some, brief], out=tmp_path / "run")
    for step in run.metrics:
        assert (step["rewards/of_some/mean"], step["rewards/of_some/std"]) == (2.0, 0.0)
        assert step["reward"] == pytest.approx(2 * 5 / 6 + step["rewards/brief/mean"])
    assert "grader_failed" not in run.metrics[0]


def test_rows_by_split_and_a_recipe_as_a_table(tmp_path: Path) -> None:
    data = {"train": ROWS[:30], "test": ROWS[30:40]}
    run = diffpo.train({"task": {"kind": "text"}, "steps": 9}, data=data, out=tmp_path / "run", **TINY | {"steps": 1})
    assert run.kind == "sft" and len(run.metrics) == 1
    moved = run.folder.rename(tmp_path / "moved")
    measured = diffpo.evaluate(moved, bounds=[0.0])
    assert measured.n == 10 and {row.prompt for row in measured.rows} == {row["prompt"] for row in ROWS[30:40]}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rollot__x": 1}, "rollot: unknown option; did you mean 'rollout'"),
    ({"reward": dict}, "reward is the class dict; give an object of it"),
    ({"reward": {right: "x"}}, "reward gives right the weight 'x'; give a number"),
    ({"reward": [right, right]}, "reward names right twice"),
    ({"reward": []}, "reward is empty"),
    (
        {"data": [{"question": 1}]},
        "data row 1: task.prompt names column 'prompt', which is not there; there are question",
    ),
    ({"data": {"prompt": ["a"]}}, "data has the keys 'prompt', which are no splits"),
    ({"data": [{"prompt": float("nan")}]}, "data row 1: column 'prompt' holds nan"),
    ({"task__kind": "sudoku"}, "data are rows, and task.kind is 'sudoku'"),
    ({"recipe": "tiny-d2"}, "did you mean 'tiny-d1'"),
    ({"objective": right}, "objective is a function; a recipe has numbers, .*a function is given as reward"),
    (
        {"reward": {right: float("nan")}},
        r"task\.reward\.\S*:right: should be a finite number, got nan$",
    ),
    ({"reward": right, "task__reward": "correct"}, "reward and task__reward both say it; give one of them"),
    ({"data": ""}, "data is empty; give a path"),
    ({"data": {"train": "a.jsonl", "test": None}}, r"data\['test'\] is None; give a path"),
    ({"base": ""}, "base: is empty; give a path or a name"),
    ({"seed": None}, "seed: should have a value, got None; give one, or leave it out"),
    ({"task__": 1}, "task__ is no key of a recipe"),
    ({"out": ""}, "out is empty; give a path"),
    ({"out": "x" * 5000}, "cannot be used as a path"),
    ({"extend": True}, "extend=True is about a run that goes on; give it with resume=True"),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=[told[:30] for _, told in WRONG])
def test_mistakes_are_one_sentence_and_leave_nothing(
    change: dict[str, Any], told: str, short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        diffpo.train(**{**short, "out": tmp_path / "new" / "run", **change})
    assert [*tmp_path.iterdir()] == []


def test_a_second_call_is_told_that_the_folder_is_in_use(short: dict[str, Any], tmp_path: Path) -> None:
    out, told = tmp_path / "run", []

    def again(completions: list[str], **_: Any) -> list[float]:
        for change in ({}, {"resume": True}, {"data": ROWS[:40]}):
            with pytest.raises(UserError) as caught:
                diffpo.train(**{**short, "reward": again, "out": out, **change})
            told.append(str(caught.value))
        return [0.0 for _ in completions]

    diffpo.train(**{**short, "reward": again, "out": out})
    assert len(told) == 6 and len(set(told)) == 1, "before the first step as after it, whatever is asked for"
    assert told[0] == (
        f"{out} is in use by another run (another call in this process); wait for it, end it, or choose another out"
    )


def in_a_loop(call: Callable[[], TrainedRun]) -> TrainedRun:
    async def cell() -> TrainedRun:
        return call()

    return asyncio.run(cell())


def in_a_thread(call: Callable[[], TrainedRun]) -> TrainedRun:
    found: list[TrainedRun] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("around", [in_a_loop, in_a_thread])
def test_async_rewards_in_a_running_loop_and_in_a_thread(
    around: Callable[[Callable[[], TrainedRun]], TrainedRun], short: dict[str, Any], tmp_path: Path
) -> None:
    run = around(lambda: diffpo.train(**short, reward=brief, out=tmp_path / "run"))
    assert run.metrics[-1]["reward"] > 0


def test_an_async_reward_that_never_ends_is_cancelled_in_a_running_loop(short: dict[str, Any], tmp_path: Path) -> None:
    cancelled = threading.Event()

    async def never(completions: list[str], **_: Any) -> list[float]:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return []

    with pytest.raises(UserError, match="does not return within"):
        in_a_loop(lambda: diffpo.train(**short, reward=never, out=tmp_path / "run", task__reward_seconds=0.2))
    assert cancelled.wait(5)


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(short: dict[str, Any], tmp_path: Path) -> None:
    calls: list[int] = []

    def interrupted(completions: list[str], **_: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return [float(len(text)) for text in completions]

    options = {**short, "reward": interrupted, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt, match="stopped at step 1; go on with the same call and resume=True"):
        diffpo.train(**options)
    run = diffpo.train(**options, resume=True)
    assert [line["step"] for line in run.metrics] == [1, 2] and len(calls) == 2
