"""Let disks fill up under runs: each ends in one sentence, loses no checkpoint, and goes on once there is room.

It takes no rights: a disk is full from the write of some number on, or takes no file above a size. The first is done to
Python's own files, the second by the operating system, which libraries in other languages feel too.
"""

import builtins
import errno
import io
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diffpo.cli.main import main as diffpo
from diffpo.runs.progress import ProgressBar
from tests.helpers.forked import Forked
from tests.torture.kills import NOWHERE, PATIENCE, Case, ends_alike, newest_whole_step, steps_logged

UNLIMITED = resource.RLIM_INFINITY


@dataclass
class FullDisks:
    """What came of filling disks."""

    filled: int = 0
    told: int = 0
    """Runs that ended with exit code 2 and one sentence, and whose last checkpoint stood whole."""
    resumed: int = 0
    """Runs that then ended bit for bit as the undisturbed one."""


class FullFile:
    """A file that is there, and takes no byte more."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, _content: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __enter__(self) -> "FullFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def at_every_write(folder: Path, is_full: Callable[[], bool]) -> Iterator[None]:
    """Ask `is_full` whenever a file or folder under a folder is made, and let what follows fail if it says so."""
    opened, made, flushed = io.open, Path.mkdir, os.fsync

    def open_(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        stream = opened(file, mode, *arguments, **options)
        is_ours = isinstance(file, str | Path) and str(file).startswith(str(folder))
        return FullFile(stream) if is_ours and set(mode) & set("wax+") and is_full() else stream

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        if str(path).startswith(str(folder)) and not path.exists() and is_full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made(path, *arguments, **options)

    def fsync(file: int) -> None:
        if is_full():  # a disk that promised room may take it back until now
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flushed(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_)
        patch.setattr(builtins, "open", open_)
        patch.setattr(Path, "mkdir", mkdir)
        patch.setattr(os, "fsync", fsync)
        yield


def run_until_full(write: int, folder: Path, command: Sequence[str]) -> None:
    """Run a command on a disk that is full from its write of that number on."""
    left = write

    def is_full() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    with at_every_write(folder, is_full):
        diffpo(command)


def count_writes(folder: Path, command: Sequence[str], counted: Path) -> None:
    """Run a command and write down how many writes it had."""
    writes = 0

    def count() -> bool:
        nonlocal writes
        writes += 1
        return False

    with at_every_write(folder, count), pytest.raises(SystemExit):
        diffpo(command)
    counted.write_text(str(writes))


def run_with_small_files(limit: int, command: Sequence[str]) -> None:
    """Run a command that can write no file of more bytes than this."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, UNLIMITED))
    diffpo(command)


def fill(case: Case, out: Path, writes: int, sizes: Sequence[int], draw: random.Random) -> str | None:
    """Run a case until the disk is full; return what is wrong with how it ended, if anything is."""
    command, errors = [*case.command, "--out", str(out), "--resume", "auto"], out.with_suffix(".full.err")
    how: tuple[Any, ...]
    if draw.random() < 0.7:
        how = (run_until_full, draw.randint(1, writes), out, command)
    else:
        how = (run_with_small_files, draw.choice(sizes) - 1, command)
    code = Forked(*how, stdout=NOWHERE, stderr=errors).wait(PATIENCE)
    told = errors.read_text().splitlines()
    if code != 2 or len(told) != 1 or not told[0].startswith("diffpo: cannot write"):
        return f"{how[0].__name__}({how[1]}): exit code {code}, {told}"
    if newest_whole_step(out) < steps_logged(out) - 1:
        return f"{how[0].__name__}({how[1]}): the checkpoint before step {steps_logged(out)} is lost"
    return None


def torture_by_full_disks(found: Sequence[Case], folder: Path, count: int, seed: int) -> FullDisks:
    """Fill the disk of so many runs, and let them go on. What failed stays in the folder."""
    draw, tally, writes, sizes = random.Random(seed), FullDisks(), [], []
    for number, case in enumerate(found):
        out, counted = folder / f"counted-{number}", folder / f"counted-{number}.txt"
        command = [*case.command, "--out", str(out)]
        Forked(count_writes, out, command, counted, stdout=NOWHERE, stderr=NOWHERE).wait(PATIENCE)
        writes.append(int(counted.read_text()))
        sizes.append([file.stat().st_size for file in out.rglob("*") if file.is_file()])
    with ProgressBar("full disks", count, unit="run") as bar:
        for number in range(count):
            index, out = number % len(found), folder / f"full-{number}"
            tally.filled += 1
            if fault := fill(found[index], out, writes[index], sizes[index], draw):
                bar.warn(f"full disk {number}: {{fault}}", fault=fault)
            tally.told += fault is None
            if ends_alike(found[index], out):
                tally.resumed += 1
                shutil.rmtree(out)
            bar.update(number + 1, told=tally.told, resumed=tally.resumed)
    return tally
