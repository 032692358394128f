"""Commands that run one after another in processes of their own, several queues side by side."""

import subprocess
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffpo.core.parent import child_environment
from diffpo.runs.interrupt import Interrupt


@dataclass(frozen=True)
class Job:
    """A command whose output is added to a log."""

    log: Path
    command: Sequence[str]
    then: "Job | None" = None
    """What can be done after it, by any queue."""


class JobQueue:
    """Jobs that run one after another.

    `shared` has jobs for several queues: one whose own jobs are done takes the next from there.
    """

    def __init__(self, jobs: Iterable[Job], shared: deque[Job]) -> None:
        self._own, self._shared = deque(jobs), shared
        self._num_own, self._num_done = len(self._own), 0
        self._job: Job | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ending = False

    @property
    def is_busy(self) -> bool:
        return self._process is not None

    @property
    def is_finished(self) -> bool:
        return not self.is_busy and not self._waiting

    @property
    def has_done_own(self) -> bool:
        return self._num_done >= self._num_own

    @property
    def num_shared_done(self) -> int:
        """How many of the shared jobs it has done."""
        return max(0, self._num_done - self._num_own)

    @property
    def _waiting(self) -> deque[Job]:
        return self._own or self._shared

    def advance(self, may_start: bool) -> None:
        """Check whether the job has ended and, if it has, start the next one.

        Without `may_start` nothing new is started and no failure counts. Raises RuntimeError for a job that failed.
        """
        if self._job is not None and self._process is not None and self._process.poll() is not None:
            job, failed = self._job, self._process.returncode
            self._job = self._process = None
            if failed and may_start:  # the exit code of one that is being stopped means nothing
                tail = job.log.read_text(errors="replace").splitlines()[-1:]
                raise RuntimeError(f"{job.log.stem} failed (see {job.log}): {' '.join(tail)}")
            self._num_done += 1
            if job.then is not None:
                self._shared.append(job.then)
        if self._process is None and self._waiting and may_start:
            self._job = self._waiting.popleft()
            with self._job.log.open("ab") as log:
                self._process = subprocess.Popen(self._job.command, stdout=log, stderr=log, env=child_environment())

    def terminate(self) -> None:
        """Ask the job that is running to end, once: a loop leaves a checkpoint, anything else ends at once."""
        if self._process is not None and not self._is_ending:
            self._is_ending = True
            self._process.terminate()


def advance_all(queues: Sequence[JobQueue], interrupt: Interrupt) -> None:
    """Advance every queue and wait a second. Raises KeyboardInterrupt once all jobs have ended after a request
    to stop.

    The commands are asked to end then, whether Ctrl-C has reached them or a signal to this process alone has not, and
    they leave checkpoints before they do. Their exit codes mean nothing: one may have been about to start, or to end.
    """
    for queue in queues:
        if interrupt.requested:
            queue.terminate()
        queue.advance(may_start=not interrupt.requested)
    if interrupt.requested and not any(queue.is_busy for queue in queues):
        raise KeyboardInterrupt
    time.sleep(1)
