"""Two processes against one: the same rollouts, metrics and weights, and when one fails both end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.forked import Forked
from tests.helpers.tiny_runs import GREEDY_STAGE, RL, SFT, TASK, lines_of
from tests.helpers.waiting import is_running, wait_until
from torch import Tensor, nn
from torch import distributed as dist

from diffpo.cli.main import main
from diffpo.core.errors import NonFiniteLossError, PeerFailedError, Stopped, UserError
from diffpo.distributed import collectives
from diffpo.distributed.collectives import (
    all_gather_columns,
    all_gather_json,
    all_gather_rows,
    all_reduce_gradients,
    all_reduce_metrics,
    object_of_rank_zero,
    on_rank_zero,
    process_group,
)
from diffpo.distributed.process import Process, current_process, rank_slice, require_divisible
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import DeviceSettings, RlRecipe, SftRecipe
from diffpo.runs import agreement
from diffpo.runs.device import configure_torch_, resolve_device
from diffpo.runs.resume import read_progress
from diffpo.sampling.policy import load
from diffpo.tasks.sudoku import Sudoku
from diffpo.training import rl_step
from diffpo.training.rl import run_rl
from diffpo.training.sft import run_sft

PROCESSES = 2
TIMEOUT = 240

SMALL = [*TASK, "task.cell_credit=0.5", "rollout.prompts_per_step=4", "rollout.group_size=4", "optimizer.lr=0.001"]
SFT_CASES = {
    "sft-uniform": ["steps=4", "early_stopping.start=4", "early_stopping.problems_per_check=8"],
    "sft-elbo": ["steps=4", "weighting=elbo", "micro_batch_size=3"],
}
RL_CASES: dict[str, tuple[str | None, list[str]]] = {
    "joint": (
        None,
        [*RL, *GREEDY_STAGE, "rollout.prompts_per_step=4", "objective.micro_batch_size=4", "budget.steps=4"],
    ),
    "diffpo": ("tiny-diffpo", [*SMALL, "objective.micro_batch_size=2", "budget={steps=3}"]),
    "literal": (
        "tiny-diffpo-literal",
        [*SMALL, "objective.drop_zero_std_groups=false", "objective.micro_batch_size=2", "budget={steps=3}"],
    ),
    "speeds": (
        "tiny-any-speed-gradient",
        [*SMALL, "rollout.speeds.shared_by=completion", "objective.micro_batch_size=3", "budget={steps=3}"],
    ),
    "planner": (
        "tiny-planner",
        [*SMALL, "controller.warm_start.count=4", "objective.micro_batch_size=4", "budget={steps=3}"],
    ),
    "right-answers": (
        "tiny-any-speed",
        [*SMALL, "objective.batch=5", "objective.num_iterations=3", "objective.micro_batch_size=2", "budget={steps=3}"],
    ),
    "one-answer": (
        "tiny-any-speed",
        [*SMALL, "rollout.group_size=1", "objective.batch=1", "objective.num_iterations=2", "budget={steps=4}"],
    ),
    "d1": ("tiny-d1", [*SMALL, "objective.micro_batch_size=3", "budget={steps=3}"]),
    "dmpo": ("tiny-dmpo", [*SMALL, "objective.baseline=unbias", "objective.micro_batch_size=3", "budget={steps=3}"]),
    "ties": (
        None,
        [
            *RL,
            "train=policy",
            "rollout.prompts_per_step=2",
            "task.cell_credit=0",
            "objective.drop_zero_std_groups=true",
            "objective.micro_batch_size=4",
            "budget.steps=6",
        ],
    ),
    "ties-dmpo": (
        "tiny-dmpo",
        [
            *SMALL,
            "rollout.prompts_per_step=2",
            "task.cell_credit=0",
            "objective.drop_zero_std_groups=true",
            "objective.micro_batch_size=2",
            "budget={steps=6}",
        ],
    ),
    "lora": (
        None,
        [
            *RL,
            "train=policy",
            "rollout.prompts_per_step=4",
            "objective.micro_batch_size=4",
            "objective.kl_coef=0.1",
            "lora.rank=2",
            "lora.alpha=4",
            "budget.steps=2",
        ],
    ),
}
STOPPED = [*RL, "rollout.prompts_per_step=4", "objective.micro_batch_size=4", "budget.steps=4", "checkpoint.every=100"]


def sft_recipe(case: str) -> SftRecipe:
    return load_recipe(SftRecipe, None, [*SFT, "batch=8", *SFT_CASES[case]])


def rl_recipe(base: Path, name: str | None, overrides: list[str]) -> RlRecipe:
    return load_recipe(RlRecipe, name, [*overrides, f"base={json.dumps(str(base))}"])


# ------------------------------------------------------------------------------------------------ in each of the two


def outcome(work: Callable[..., None], *arguments: Any) -> str:
    try:
        work(*arguments)
    except BaseException as error:  # noqa: BLE001  what it was is the result
        return f"{type(error).__name__}: {error}"
    return "done"


def share(folder: Path, base: Path) -> None:
    """Run every case as one of two processes; how each ended goes to a file of its own."""
    warnings.simplefilter("error")
    here = current_process()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=here.rank, world_size=here.world_size)
    found = {"helpers": outcome(check_helpers)}
    while not (folder / "ready").exists():
        time.sleep(0.1)
    for case in SFT_CASES:
        found[case] = outcome(run_sft, sft_recipe(case), folder / "two" / case)
    pickled: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        gather = dist.all_gather_object

        def noted(found: list[Any], value: Any, **options: Any) -> None:
            pickled.append(type(value).__name__)
            gather(found, value, **options)

        patch.setattr(dist, "all_gather_object", noted)
        for case, (name, overrides) in RL_CASES.items():
            found[case] = outcome(run_rl, rl_recipe(base, name, overrides), folder / "two" / case)
    found["pickled"] = " ".join(pickled)
    stopped = rl_recipe(base, None, STOPPED)
    with pytest.MonkeyPatch.context() as patch:
        ask_to_stop(patch, at=2, rank=1)
        found["stopped"] = outcome(run_rl, stopped, folder / "two" / "stopped")
    found["resumed"] = outcome(run_rl, stopped, folder / "resumed", True)

    found |= check_agreement(folder, base, here.rank)
    odd = rl_recipe(base, None, [*STOPPED, "rollout.prompts_per_step=3"])
    found["odd"] = outcome(run_rl, odd, folder / "odd")
    few = rl_recipe(base, None, [*STOPPED, "rollout.prompts_per_step=1"])
    found["few"] = outcome(run_rl, few, folder / "odd")
    for name, overrides in (("mesh", ["parallel.shard=3"]), ("copies", ["parallel.shard=2", "parallel.replicate=2"])):
        found[name] = outcome(run_rl, rl_recipe(base, None, [*STOPPED, *overrides]), folder / "odd")
    found["again"] = outcome(run_rl, stopped, folder / "resumed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "VISIBLE_WITHIN", 0.2)
        if here.rank == 1:
            patch.setattr(agreement, "RECIPE", "what another machine has")
        found["apart"] = outcome(run_rl, stopped, folder / "apart")
    for name, error in (("ours", UserError("a grader's file is gone")), ("bug", RuntimeError("a bug"))):
        with pytest.MonkeyPatch.context() as patch:
            if here.rank == 1:
                patch.setattr(Sudoku, "grade", raising(error))
            found[name] = outcome(run_rl, stopped, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        if here.rank == 1:
            patch.setattr(rl_step, "set_learning_rate", poison)
        found["nan"] = outcome(run_rl, stopped, folder / "nan")
    (folder / f"outcomes-{here.rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def check_agreement(folder: Path, base: Path, rank: int) -> dict[str, str]:
    """Start runs in which the second process has something else than the first."""
    found = {}
    recipe = rl_recipe(base, None, [*STOPPED, f"seed={rank}"])
    found["other recipe"] = outcome(run_rl, recipe, folder / "other")
    found["other batch"] = outcome(run_sft, load_recipe(SftRecipe, None, [*SFT, f"batch={2 + rank}"]), folder / "other")
    with pytest.MonkeyPatch.context() as patch:
        if rank:
            patch.setattr(torch, "__version__", "1.0")
        found["other torch"] = outcome(run_rl, rl_recipe(base, None, STOPPED), folder / "other")
    rows = folder / f"rows-{rank}.jsonl"
    rows.write_text(
        "".join(json.dumps({"question": f"What is {n}+{rank}?", "answer": f"{n}"}) + "\n" for n in range(9))
    )
    (folder / f"here-{rank}").mkdir()
    rows.rename(folder / f"here-{rank}" / "rows.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / f"here-{rank}")
        data = [*SFT, "steps=1", "task={kind='gsm8k', source='rows.jsonl', completion_length=96, instructions=''}"]
        found["other folder"] = outcome(run_rl, rl_recipe(base, None, STOPPED), folder / f"other-{rank}")
        found["other data"] = outcome(run_sft, load_recipe(SftRecipe, None, data), folder / "other")
    return found


def check_helpers() -> None:
    """The least that the cases rest on, on numbers that a reader can add up; in another process of other numbers."""
    rank = current_process().rank
    for mine in (
        lambda r: f"prozess \u00e9\u6587 {r}" * 50 * r,
        lambda r: None if r else -2.5e-300,
        lambda r: {"a": [r, True]},
    ):
        assert all_gather_json(mine(rank)) == [mine(0), mine(1)]
    assert str(all_gather_json(float("nan") if rank else float("-inf"))) == "[-inf, nan]"
    assert all_gather_rows(torch.arange(4).view(2, 2)[rank:]).tolist() == [[0, 1], [2, 3], [2, 3]]
    assert all_gather_rows(torch.zeros(rank, 0)).shape == (1, 0)
    assert all_gather_rows(torch.ones(2, 3).T[rank:]).tolist() == [[1, 1]] * 5, "a view"
    columns = {
        "whole": torch.tensor([2**62 + 1, -3])[rank:],
        "none": torch.zeros(2 - rank, 0, dtype=torch.bool),
        "sign": torch.tensor([[True, False], [False, True]])[rank:],
        "half": torch.tensor([[1.5], [float("nan")]], dtype=torch.bfloat16)[rank:],
        "cube": torch.arange(8.0).view(2, 2, 2)[rank:],
    }
    found = all_gather_columns(columns)
    assert found["whole"].tolist() == [2**62 + 1, -3, -3] and found["none"].shape == (3, 0)
    assert found["sign"].tolist() == [[True, False], [False, True], [False, True]]
    assert str(found["half"].tolist()) == "[[1.5], [nan], [nan]]" and found["half"].dtype == torch.bfloat16
    assert found["cube"].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[4, 5], [6, 7]]]
    assert all_reduce_metrics({"both": 1 + rank} | ({"mine": 5} if rank else {})) == {"both": 3, "mine": 5}
    assert on_rank_zero(lambda: rank) == 0 and object_of_rank_zero(lambda: Path(str(rank))) == Path("0")
    model = nn.ParameterList(nn.Parameter(torch.zeros(2, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    model.append(nn.Parameter(torch.zeros(3), requires_grad=False))
    model.append(nn.Parameter(torch.zeros(1, dtype=torch.bfloat16)))
    model[3].grad_dtype = torch.float32  # as a weight that has a master
    if rank:
        model[0].grad, model[1].grad = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0], dtype=torch.bfloat16)
        model[3].grad = torch.tensor([1.00390625])  # which bfloat16 rounds to 1
    else:
        model[1].grad = torch.tensor([10.0, 20.0], dtype=torch.bfloat16)
    all_reduce_gradients(model.parameters())
    assert [None if p.grad is None else p.grad.tolist() for p in model] == [[1, 2], [13, 24], None, [1.00390625]]
    assert model[1].grad.dtype == torch.bfloat16


def ask_to_stop(patch: pytest.MonkeyPatch, at: int, rank: int) -> None:
    """Ctrl-C that only one process notices, within a step."""
    train_step = rl_step.train_step

    def spy(*arguments: Any) -> dict[str, float]:
        if arguments[-1] + 1 == at and current_process().rank == rank:
            signal.raise_signal(signal.SIGINT)
        return train_step(*arguments)

    patch.setattr("diffpo.training.rl.train_step", spy)


def raising(error: Exception) -> Callable[..., None]:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it


def poison(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    optimizer.param_groups[0]["params"][0].data.fill_(torch.nan)


# --------------------------------------------------------------------------------------------------------- the parent


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two processes have run all cases: `two/CASE`, and how they ended."""
    folder = tmp_path_factory.mktemp("two")
    processes = []
    for rank in range(PROCESSES):
        environment = {"WORLD_SIZE": str(PROCESSES), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        out, errors = folder / f"out-{rank}", folder / f"err-{rank}"
        processes.append(Forked(share, folder, base, stdout=out, stderr=errors, environment=environment))
    try:
        with pytest.MonkeyPatch.context() as patch:
            ask_to_stop(patch, at=2, rank=0)
            assert outcome(run_rl, rl_recipe(base, None, STOPPED), folder / "resumed").startswith("Stopped")
        (folder / "ready").touch()
        for process in processes:
            process.wait(TIMEOUT)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank in range(PROCESSES):
        assert (folder / f"outcomes-{rank}.json").exists(), (folder / f"err-{rank}").read_text()
    return folder


def path_here() -> str:
    return os.pathsep.join(path for path in sys.path if path)


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, list[str]]:
    """How each case ended in both processes."""
    found = [json.loads((folder / f"outcomes-{rank}.json").read_text()) for rank in range(PROCESSES)]
    return {case: [each[case] for each in found] for case in found[0]}


def assert_same(one: Path, two: Path) -> None:
    """The same log but for the time it took, and the same weights, up to rounding."""
    for ours, theirs in zip(lines_of(one), lines_of(two), strict=True):
        for clock in ("seconds", "cpu_seconds", "idle_share"):
            ours.pop(clock, None)
            theirs.pop(clock, None)
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-5)
    last = checkpoints(one)[-1], checkpoints(two)[-1]
    assert read_progress(last[0]) == read_progress(last[1])
    for expected, found in zip(tensors_of(last[0]), tensors_of(last[1]), strict=True):
        # AdamW turns the rounding of a gradient that is nearly nothing into a step of up to its rate.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=5e-5)


def tensors_of(checkpoint: Path) -> list[Tensor]:
    policy = load(checkpoint)
    denoiser = policy.denoiser
    controller = policy.controller
    return [*denoiser.model.state_dict().values(), *(controller.state_dict().values() if controller else ())]


def test_helpers(outcomes: dict[str, list[str]]) -> None:
    assert outcomes["helpers"] == ["done", "done"]


@pytest.mark.parametrize("case", SFT_CASES)
def test_sft_is_the_same_on_two_processes(case: str, folder: Path, outcomes: dict[str, list[str]]) -> None:
    assert outcomes[case] == ["done", "done"]
    run_sft(sft_recipe(case), folder / "one" / case)
    assert_same(folder / "one" / case, folder / "two" / case)


@pytest.mark.parametrize("case", RL_CASES)
def test_rl_is_the_same_on_two_processes(case: str, base: Path, folder: Path, outcomes: dict[str, list[str]]) -> None:
    assert outcomes[case] == ["done", "done"]
    run_rl(rl_recipe(base, *RL_CASES[case]), folder / "one" / case)
    assert_same(folder / "one" / case, folder / "two" / case)
    if case.startswith("ties"):
        tied = [line["frac_reward_zero_std"] for line in lines_of(folder / "one" / case)]
        assert 0.5 in tied, "in some step one of the processes had nothing to learn from"
    idle = [line["idle_share"] for line in lines_of(folder / "two" / case)]
    assert all(0 <= share <= 0.5 for share in idle) and any(idle), "of two processes one is always at work"
    assert sum(line.get("grad_norm", 0) > 0 for line in lines_of(folder / "two" / case)) > 1, "nothing to sum"


def test_nothing_is_pickled_but_at_the_start_of_a_run(outcomes: dict[str, list[str]]) -> None:
    """In the first process the run that was found, and what a planner is shown before its first step."""
    first, second = (each.split() for each in outcomes["pickled"])
    assert first.count("Run") == len(RL_CASES) and len(first) == len(second) == len(RL_CASES) + 1


def test_a_request_to_stop_in_one_process_stops_both_at_the_same_step(
    folder: Path, outcomes: dict[str, list[str]]
) -> None:
    assert outcomes["stopped"] == ["Stopped: stopped at step 2; go on with the same command and --resume"] * 2


def test_a_run_goes_on_with_another_number_of_processes(
    base: Path, folder: Path, outcomes: dict[str, list[str]]
) -> None:
    recipe = rl_recipe(base, None, STOPPED)
    run_rl(recipe, folder / "one" / "straight")
    assert outcomes["resumed"] == ["done", "done"]
    assert_same(folder / "one" / "straight", folder / "resumed")
    run_rl(recipe, folder / "two" / "stopped", resume=True)
    assert_same(folder / "one" / "straight", folder / "two" / "stopped")


def test_processes_that_were_started_with_different_things_are_refused(
    folder: Path, outcomes: dict[str, list[str]]
) -> None:
    told = "than process 0; start all processes with the same command, files and libraries"
    for case, what in {
        "other recipe": "another recipe",
        "other batch": "another recipe",
        "other torch": f"torch 1.0 and not {torch.__version__}",
        "other folder": "another output (--out)",
        "other data": "another data",
    }.items():
        assert outcomes[case] == [f"UserError: process 1 has {what} {told}"] * 2
    assert not list(folder.glob("other*"))


def test_prompts_that_cannot_be_shared_evenly_are_refused(folder: Path, outcomes: dict[str, list[str]]) -> None:
    expected = (
        "UserError: rollout.prompts_per_step 3 cannot be shared by 2 processes; make it a multiple of 2, or start fewer"
    )
    assert outcomes["odd"] == [expected] * 2
    assert outcomes["few"] == [expected.replace("step 3", "step 1")] * 2, "more processes than prompts"
    for case, layout in (("mesh", "3 x parallel.replicate 1 is 3"), ("copies", "2 x parallel.replicate 2 is 4")):
        told = f"parallel.shard {layout}, and there are 2 processes; start as many, or change one of the two"
        assert outcomes[case] == [f"UserError: {told}"] * 2
    assert not (folder / "odd").exists()


def test_what_fails_in_one_process_ends_both(folder: Path, outcomes: dict[str, list[str]]) -> None:
    assert outcomes["again"] == [outcomes["again"][0]] * 2
    assert outcomes["again"][0].startswith("UserError") and "already holds a run" in outcomes["again"][0]
    told = "UserError: process 1 does not see {}; a run's folder must be on a file system that all its machines share"
    assert outcomes["apart"] == [told.format(folder / "apart")] * 2
    assert outcomes["ours"] == ["UserError: a grader's file is gone"] * 2
    assert outcomes["bug"] == ["PeerFailedError: process 1 failed: RuntimeError: a bug", "RuntimeError: a bug"]
    assert outcomes["nan"] == ["NonFiniteLossError: the gradient's norm is nan"] * 2
    assert not checkpoints(folder / "nan")


def test_the_first_process_alone_speaks(folder: Path) -> None:
    said = [(folder / f"out-{rank}").read_text() for rank in range(PROCESSES)]
    assert "rl joint: step" in said[0] and said[1] == ""
    assert [(folder / f"err-{rank}").read_text() for rank in range(PROCESSES)] == ["", ""]


# ------------------------------------------------------------------------------------------------------- no processes


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize(("count", "unit"), [(24, 1), (24, 4), (8, 8), (5, 1), (0, 4)])
def test_shares_are_a_partition_in_whole_units(
    count: int, unit: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(size))
    shares = []
    for rank in range(size):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        shares.append(list(range(count))[rank_slice(count, unit)])
    assert [row for rows in shares for row in rows] == list(range(count))
    assert all(len(rows) % unit == 0 for rows in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= unit


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")  # by a cluster, for its own ends
    assert current_process() == Process() and current_process().is_main
    require_divisible("rollout.prompts_per_step", 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "."],
        ["sample", ".", "--prompt", "x"],
        ["study", "--report-only", "--out", "."],
        ["rl", "tiny-d1", "--dry-run", "base=x"],
        ["sft", "sudoku4-base", "--dry-run"],
        ["demo"],
    ],
)
def test_commands_for_one_process_say_so(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(" is for one process; start it without torchrun\n")


def test_each_process_has_a_cuda_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert resolve_device(DeviceSettings())[1] == torch.device("cuda")
    configure_torch_(DeviceSettings())
    assert chosen == []
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert resolve_device(DeviceSettings())[1] == torch.device("cuda:1") and chosen == []
    configure_torch_(DeviceSettings())
    assert chosen == [1]
    assert resolve_device(DeviceSettings(device="cpu"))[1] == torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert resolve_device(DeviceSettings())[1] == torch.device("cuda:1"), "the third is on another machine"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="3 processes were started, and torch sees 2 CUDA devices here; start 2"):
        resolve_device(DeviceSettings())


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no"), 2, "diffpo: no\n"),
        (NonFiniteLossError("no"), 1, "diffpo: training stopped: no; the last checkpoint is as it was\n"),
        (Stopped("no"), 130, "diffpo: no\n"),
        (PeerFailedError("no"), 1, "diffpo: no\n"),
    ],
)
def test_what_ends_all_is_said_once(
    error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first says it at once; the others wait for torchrun to end them, or torchrun would end the first unheard."""
    monkeypatch.setattr("diffpo.cli.main.app", raising(error))
    monkeypatch.setattr(time, "sleep", lambda seconds: print("waits", file=sys.stderr))
    for rank in range(2):
        for name, value in (("WORLD_SIZE", "2"), ("RANK", str(rank)), ("LOCAL_RANK", str(rank))):
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as caught:
            main(["rl"])
        errors = capsys.readouterr().err
        if isinstance(error, PeerFailedError):
            assert (caught.value.code, errors) == (code, "waits\n" + said), "the one that failed is heard first"
            continue
        assert caught.value.code == code
        if isinstance(error, Stopped):
            assert errors == ("" if rank else said)
        else:
            assert errors == ("waits\n" + said if rank else said)


# --------------------------------------------------------------------------------------------------------- torchrun


def join_late(folder: Path) -> None:
    """As one of two processes: join the other, let it wait for longer than joining may take, and meet it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collectives, "JOINING", timedelta(seconds=6))
        with process_group():
            if current_process().rank == 1:
                time.sleep(9)
            found = all_gather_json(current_process().rank)
        (folder / f"found-{current_process().rank}").write_text(str(found))


def environment_of(rank: int) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return address | {"WORLD_SIZE": str(PROCESSES), "RANK": str(rank), "LOCAL_RANK": str(rank)}


def test_who_has_joined_waits_longer_than_joining_may_take(tmp_path: Path) -> None:
    environment, processes = environment_of(0), []
    for rank in range(PROCESSES):
        own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        output = tmp_path / f"out-{rank}"
        processes.append(Forked(join_late, tmp_path, stdout=output, stderr=output, environment=own))
    assert [process.wait(TIMEOUT) for process in processes] == [0, 0], (tmp_path / "out-0").read_text()
    assert [(tmp_path / f"found-{rank}").read_text() for rank in range(PROCESSES)] == ["[0, 1]"] * 2


def torchrun(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "diffpo"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path_here()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("number", "to_all"),
    [
        pytest.param(signal.SIGINT, False, id="ctrl-c", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, id="ctrl-c in a terminal", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, id="a scheduler's SIGTERM"),
    ],
)
def test_a_run_under_torchrun_stops_with_a_checkpoint(
    number: signal.Signals, to_all: bool, base: Path, tmp_path: Path
) -> None:
    """What reaches torchrun alone is passed on to its processes; what reaches all of them comes to those twice."""
    out, recipe = tmp_path / "run", tmp_path / "recipe.toml"
    recipe.write_text("")
    overrides = [*STOPPED, f"base={json.dumps(str(base))}", "budget.steps=1000"]
    process = torchrun("rl", recipe, "--out", out, *overrides)
    try:
        until = time.monotonic() + TIMEOUT
        while not (out / METRICS).exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.1)
        os.killpg(process.pid, number) if to_all else process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    (last,) = checkpoints(out)
    assert read_progress(last).step == len(lines_of(out))
    assert errors.count("go on with the same command and --resume") == 1
    assert process.returncode != 0


def test_a_killed_process_ends_all_and_the_run_goes_on(base: Path, tmp_path: Path) -> None:
    """Without restarts, within a minute, by a sentence; what was checkpointed stays."""
    out, recipe = tmp_path / "run", tmp_path / "recipe.toml"
    recipe.write_text("")
    overrides = [*STOPPED, f"base={json.dumps(str(base))}", "budget.steps=1000", "checkpoint.every=2"]
    process = torchrun("rl", recipe, "--out", out, *overrides)
    try:
        assert wait_until(lambda: bool(checkpoints(out)), TIMEOUT)
        killed, left = children_of(process.pid)
        os.kill(killed, signal.SIGKILL)
        started = time.monotonic()
        _, errors = process.communicate(timeout=TIMEOUT)
        assert time.monotonic() - started < 60 and process.returncode != 0
        assert not is_running(left)
    finally:
        process.kill()
    assert "SIGKILL" in errors, "torchrun's report"
    told = [line for line in errors.splitlines() if line.startswith("diffpo: ")]
    assert len(told) == 1 and re.match(r"diffpo: process [01] \(on .+\) has ended without a word, ", told[0])
    steps = read_progress(checkpoints(out)[-1]).step
    again = rl_recipe(base, None, [*STOPPED, "budget.steps=1000", "checkpoint.every=2"])
    with pytest.MonkeyPatch.context() as patch:
        ask_to_stop(patch, at=steps + 1, rank=0)
        assert outcome(run_rl, again, out, True).startswith(f"Stopped: stopped at step {steps + 1}")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
