"""Jobs of a study in processes of their own. Under torchrun its processes, the *ranks*, share the jobs."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffpo.core.errors import Stopped, UserError
from diffpo.distributed.collectives import all_gather_json, raise_on_all_ranks
from diffpo.runs.interrupt import interruptible
from diffpo.runs.progress import ProgressBar
from diffpo.study.deal import Deal, shared_folder
from diffpo.study.job_environment import job_environment
from diffpo.study.plan import StudyPaths, StudyRun


@dataclass(frozen=True)
class Job:
    """What one process does: train a base (`run` is None), or one run of the study."""

    task: str
    run: StudyRun | None = None
    seed: int | None = None
    """The seed of the base, where each seed has its own."""

    @property
    def arguments(self) -> list[str]:
        """Those of `diffpo.study.worker` after the folder: TASK for a base, or TASK SEED; TASK ARM SEED for a run."""
        if self.run is None:
            return [self.task] if self.seed is None else [self.task, str(self.seed)]
        return [self.task, self.run.arm, str(self.run.seed)]

    def __str__(self) -> str:
        if self.run is None:
            return f"{self.task} base" if self.seed is None else f"{self.task} base of seed {self.seed}"
        return str(self.run)

    def folder(self, paths: StudyPaths) -> Path:
        return paths.base(self.task, self.seed) if self.run is None else paths.run(self.run)


def in_processes(
    label: str, jobs: Sequence[Job], paths: StudyPaths, count: int, collect: Callable[[Job], None]
) -> list[str]:
    """Do each job in a process of its own, at most `count` at a time in each rank; return what went wrong with which.

    Raises Stopped where a rank was interrupted, and UserError where a process refused its job, in all ranks.
    """
    with shared_folder(paths.work, "--work") as folder:
        with raise_on_all_ranks():
            ended = _do_share(label, jobs, paths, count, collect, Deal(folder))
        by_rank = [Ended(**each) for each in all_gather_json(vars(ended))]
    if any(each.is_interrupted for each in by_rank):
        raise stopped()
    if refused := [told for each in by_rank for told in each.refused]:
        raise UserError("; ".join(refused))
    return [told for each in by_rank for told in each.failed]


@dataclass
class Ended:
    """How the jobs of a rank have ended."""

    failed: list[str]
    refused: list[str]
    is_interrupted: bool = False


def _do_share(
    label: str, jobs: Sequence[Job], paths: StudyPaths, count: int, collect: Callable[[Job], None], deal: Deal
) -> Ended:
    """Do the jobs that fall to this rank, until those of all ranks have ended.

    Ctrl-C is passed on to the processes once, and they are waited for: each leaves a checkpoint. What stops one rank
    stops the others.
    """
    waiting = list(enumerate(jobs))
    ended = Ended([], [])
    running: dict[int, subprocess.Popen[bytes]] = {}
    is_stopping, num_finished, last = False, 0, dict[str, str]()
    try:
        with ProgressBar(f"{label}, {count} at a time", len(jobs)) as bar, interruptible() as interrupt:
            while running or not (is_stopping or num_finished == len(jobs)):
                while waiting and len(running) < count and not is_stopping:
                    number, job = waiting.pop(0)
                    if deal.take(number):
                        running[number] = _start(job, paths)
                time.sleep(0.1)
                ended.is_interrupted |= interrupt.requested
                if (interrupt.requested or deal.is_stopped()) and not is_stopping:
                    is_stopping = True
                    deal.stop()
                    for process in running.values():
                        process.send_signal(signal.SIGINT)
                for number in [number for number, process in running.items() if process.poll() is not None]:
                    code, job = running.pop(number).returncode, jobs[number]
                    if code == 0:
                        collect(job)
                    elif code == 2:
                        ended.refused.append(_last_line(job, paths))
                    elif not is_stopping:
                        ended.failed.append(f"{job} ({_last_line(job, paths)}; see {log_of(job, paths)})")
                    deal.finish(number)
                    last["last"] = str(job)
                if (found := deal.num_finished()) > num_finished:
                    num_finished = found
                    bar.update(num_finished, **last)
    finally:
        if running or num_finished < len(jobs):
            deal.stop()
        for process in running.values():
            process.terminate()
    return ended


def log_of(job: Job, paths: StudyPaths) -> Path:
    return paths.work / "logs" / f"{'-'.join(job.arguments)}.log"


def _last_line(job: Job, paths: StudyPaths) -> str:
    return " ".join(log_of(job, paths).read_text(errors="replace").splitlines()[-1:])


def _start(job: Job, paths: StudyPaths) -> subprocess.Popen[bytes]:
    """Start a job's process, in a session of its own: Ctrl-C in a terminal must reach it once, by way of this one."""
    log = log_of(job, paths)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "diffpo.study.worker", str(paths.work), *job.arguments]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=job_environment())


def stopped() -> Stopped:
    return Stopped("the study was stopped; the same command goes on where it was")
