"""Studies on two ranks against one process: the same results, each job done once; what ends one rank ends both."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from tests.helpers.forked import Forked
from tests.helpers.tiny_study import lines_in, write_recipes

from diffpo.core.errors import NonFiniteLossError
from diffpo.core.parent import PARENT
from diffpo.distributed.collectives import process_group
from diffpo.distributed.process import current_process, without_ranks
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import StudyRecipe
from diffpo.study import jobs, worker
from diffpo.study.deal import Deal
from diffpo.study.harness import _locked, run_study
from diffpo.study.job_environment import with_own_device
from diffpo.study.plan import Selection
from diffpo.study.results import RUNS
from diffpo.training import rl, rl_step

RANKS = 2
TIMEOUT = 240
FIRST = Selection(seeds=("0",))
ONE = Selection(arms=("mf",), seeds=("0",))


def study(*overrides: str) -> StudyRecipe:
    return load_recipe(StudyRecipe, "study.toml", overrides)


# ----------------------------------------------------------------------------------------------- in each of the ranks


def outcome(*arguments: Any, **options: Any) -> str:
    try:
        run_study(*arguments, **options)
    except Exception as error:  # noqa: BLE001  what it was is the result
        return f"{type(error).__name__}: {error}"
    return "done"


def work(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Do one job of a study, in this process and its environment; an arm diverges where a file says so."""
    os.environ.clear()
    os.environ.update(environment)
    os.environ.pop(PARENT)  # the fork server is the parent, and not the rank
    assert not any(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))
    if Path("diverge").exists():
        train_step = rl_step.train_step

        def diverging(recipe: Any, *others: Any) -> dict[str, float]:
            if recipe.objective.importance_cap is None:
                raise NonFiniteLossError("the gradient's norm is nan")
            return train_step(recipe, *others)

        vars(rl)["train_step"] = diverging
    sys.argv[1:] = arguments
    worker.main()


@process_group()
def share(folder: Path) -> None:
    """Do every case as one of two ranks; how each ended goes to a file of its own."""
    rank = current_process().rank
    started: list[str] = []

    def popen(
        command: Sequence[str], *, stdout: IO[bytes], stderr: IO[bytes], start_new_session: bool, env: Mapping[str, str]
    ) -> Forked:
        """Start a job as `subprocess.Popen` would, but faster."""
        started.append(" ".join(command[4:]))
        log = Path(stdout.name).absolute()
        return Forked(work, command[3:], dict(env), stdout=log, stderr=log)

    def sleep_then_interrupt(seconds: float) -> None:
        time.sleep(seconds)
        run = Path("stopped/work/runs/walk/mf/seed-0")
        if rank == 1 and (run / METRICS).exists() and not Path("interrupted").exists():
            Path("interrupted").touch()
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "subprocess", SimpleNamespace(Popen=popen))
        found = {"whole": outcome(study(), folder / "two", folder / "work", selection=FIRST)}
        shared = list(started)
        found["again"] = outcome(study(), folder / "two", folder / "work", selection=FIRST)
        found["refused"] = outcome(study("budget=250"), folder / "refused", folder / "work", selection=ONE)
        own = folder / f"own-{rank}"
        found["own results"] = outcome(study(), own, folder / "work", selection=ONE)
        found["own work"] = outcome(study(), folder / "own", own, selection=ONE)
        found["locked"] = outcome(study(), folder / "locked", folder / "work", selection=ONE)
        if rank == 0:
            Path("diverge").touch()
            shutil.copytree(folder / "work" / "bases", folder / "failed-work" / "bases")
        found["failed"] = outcome(study("budget=200"), folder / "failed", folder / "failed-work", selection=FIRST)
        Path("diverge").unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(jobs, "time", SimpleNamespace(sleep=sleep_then_interrupt))
            long = study("budget=30000")
            found["stopped"] = outcome(long, folder / "stopped" / "out", folder / "stopped" / "work", selection=ONE)
    (folder / f"outcomes-{rank}.json").write_text(json.dumps({"started": shared, "found": found}))


def alone(out: Path, work_folder: Path) -> None:
    run_study(study(), out, work_folder, selection=FIRST)


# --------------------------------------------------------------------------------------------------------- the parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks have done all cases, and one process the first of them (`one`)."""
    folder = tmp_path_factory.mktemp("study")
    write_recipes(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with _locked(folder / "locked"):
            for rank in range(RANKS):
                ranks = {"WORLD_SIZE": str(RANKS), "RANK": str(rank), "LOCAL_RANK": str(rank)}
                out, errors = folder / f"out-{rank}", folder / f"err-{rank}"
                processes.append(Forked(share, folder, stdout=out, stderr=errors, environment=address | ranks))
            try:
                nowhere = Path(os.devnull)
                one = Forked(alone, folder / "one", folder / "one-work", stdout=nowhere, stderr=folder / "err-one")
                for process in (one, *processes):
                    process.wait(TIMEOUT)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
    for rank in range(RANKS):
        assert (folder / f"outcomes-{rank}.json").exists(), (folder / f"err-{rank}").read_text()
    return folder


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, list[str]]:
    """How each case ended in both ranks."""
    found = [json.loads((folder / f"outcomes-{rank}.json").read_text())["found"] for rank in range(RANKS)]
    return {case: [each[case] for each in found] for case in found[0]}


@pytest.mark.slow
def test_two_ranks_write_the_results_of_one_process(folder: Path, outcomes: dict[str, list[str]]) -> None:
    assert outcomes["whole"] == outcomes["again"] == ["done", "done"]
    assert lines_in(folder / "two") == lines_in(folder / "one")
    assert {file.name for file in (folder / "two").iterdir()} == {file.name for file in (folder / "one").iterdir()}
    assert not list((folder / "work").glob(".jobs-*"))


@pytest.mark.slow
def test_each_job_is_done_once_and_both_ranks_do_some(folder: Path) -> None:
    started = [json.loads((folder / f"outcomes-{rank}.json").read_text())["started"] for rank in range(RANKS)]
    assert all(started)
    assert sorted(chain(*started)) == ["walk", "walk 2-MF+IS 0", "walk mf 0"]


@pytest.mark.slow
def test_a_job_that_fails_is_told_as_in_one_process(folder: Path, outcomes: dict[str, list[str]]) -> None:
    first, second = outcomes["failed"]
    assert first.startswith(
        "RunsFailedError: 1 of 2 runs failed: walk mf seed 0 (training stopped: the gradient's norm"
    )
    assert second.startswith("PeerFailedError: process 0 failed: RunsFailedError: 1 of 2 runs failed: walk mf seed 0")
    assert [line["arm"] for line in lines_in(folder / "failed")] == ["2-MF+IS"]


@pytest.mark.slow
def test_what_is_refused_in_one_rank_is_refused_in_both(folder: Path, outcomes: dict[str, list[str]]) -> None:
    for case, told in {
        "refused": "was started with a smaller budget (budget.denoiser_calls: 240 -> 250)",
        "own results": f"UserError: process 1 does not see what process 0 writes to {folder}/own-1; for a study on "
        "several machines choose --out on a file system that they share",
        "own work": "choose --work on a file system that they share",
        "locked": "another study is at work on",
    }.items():
        assert outcomes[case] == [outcomes[case][0]] * RANKS and told in outcomes[case][0]
        assert outcomes[case][0].startswith("UserError")


@pytest.mark.slow
def test_an_interruption_of_one_rank_stops_both_with_a_checkpoint(folder: Path, outcomes: dict[str, list[str]]) -> None:
    assert outcomes["stopped"] == ["Stopped: the study was stopped; the same command goes on where it was"] * RANKS
    assert checkpoints(folder / "stopped" / "work" / "runs" / "walk" / "mf" / "seed-0")
    assert not (folder / "stopped" / "out" / RUNS).exists()


@pytest.mark.slow
def test_the_first_rank_alone_speaks(folder: Path) -> None:
    told = [(folder / f"out-{rank}").read_text() for rank in range(RANKS)]
    assert "tiny: 0 of 2 runs are done" in told[0] and "tiny: 2 of 2 runs are done" in told[0] and told[1] == ""


# ------------------------------------------------------------------------------------------------------- no processes


def test_a_job_falls_to_one_of_those_that_ask_at_once(tmp_path: Path) -> None:
    deals = [Deal(tmp_path) for _ in range(4)]

    def takes(deal: Deal) -> list[int]:
        return [job for job in range(200) if deal.take(job)]

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(takes, deals))
    assert sorted(chain(*taken)) == list(range(200))
    deals[0].finish(3)
    deals[1].finish(5)
    assert deals[2].num_finished() == 2 and not deals[2].is_stopped()
    deals[3].stop()
    assert deals[2].is_stopped()


def test_a_job_has_no_ranks_and_one_gpu() -> None:
    environment = {"PATH": "/bin", "RANK": "1", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x", "MASTER_PORT": "1"}
    assert without_ranks(environment) == {"PATH": "/bin"}
    seen = [with_own_device({}, rank, 2)["CUDA_VISIBLE_DEVICES"] for rank in range(3)]
    assert seen == ["0", "1", "0"]
    assert with_own_device({"CUDA_VISIBLE_DEVICES": "5,7"}, 1, 2) == {"CUDA_VISIBLE_DEVICES": "7"}
    assert with_own_device({"PATH": "/bin"}, 1, 0) == {"PATH": "/bin"}


def test_torchrun_sets_nothing_else_that_names_ranks(tmp_path: Path) -> None:
    """What torch's own launcher adds to the environment, and a job's process must not have."""
    script = tmp_path / "names.py"
    script.write_text("import os; open('names', 'w').write(' '.join(os.environ))")
    before = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", str(script)]
    subprocess.run(command, cwd=tmp_path, env=before, check=True, capture_output=True)
    names = set((tmp_path / "names").read_text().split()) - before.keys()
    assert names - without_ranks(dict.fromkeys(names, "")).keys() >= {"LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"}
    left = without_ranks(dict.fromkeys(names, "")).keys()
    assert not [name for name in left if "RANK" in name or "MASTER" in name or "WORLD" in name], left
