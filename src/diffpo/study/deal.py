"""Jobs dealt to the processes of a study, each to whichever asks for it first, by files in a folder that all see.

A job takes hours, and others as long: so that no process waits in a collective, they look at the folder.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from diffpo.core.errors import UserError
from diffpo.distributed.collectives import on_rank_zero, raise_on_all_ranks
from diffpo.distributed.process import current_process


@dataclass(frozen=True)
class Deal:
    """What the processes know of a list of jobs, which are counted from 0."""

    folder: Path

    def take(self, job: int) -> bool:
        """Return whether the job is this process's to do. It is that of the first one that asks."""
        try:
            (self.folder / f"{job}.taken").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def finish(self, job: int) -> None:
        """Tell all processes that the job has ended, well or not."""
        (self.folder / f"{job}.ended").touch()

    def num_finished(self) -> int:
        """Return how many jobs have ended."""
        return sum(1 for _ in self.folder.glob("*.ended"))

    def stop(self) -> None:
        """Ask all processes to end their jobs and to take no others."""
        (self.folder / "stop").touch()

    def is_stopped(self) -> bool:
        return (self.folder / "stop").exists()


@contextmanager
def shared_folder(parent: Path, option: str) -> Iterator[Path]:
    """Give the block a new folder in `parent` that all processes see; it is removed at the end, which is theirs alike.

    Raises UserError, in all of them, where one does not see it; the message names the `option` that sets `parent`.
    """
    folder = parent / on_rank_zero(lambda: f".jobs-{uuid4().hex}")
    with raise_on_all_ranks():
        if current_process().is_main:
            folder.mkdir(parents=True)
    try:
        with raise_on_all_ranks():
            if not folder.is_dir():
                raise UserError(
                    f"process {current_process().rank} does not see what process 0 writes to {parent}; for a study on "
                    f"several machines choose {option} on a file system that they share"
                )
        yield folder
    finally:
        if current_process().is_main:
            shutil.rmtree(folder, ignore_errors=True)
