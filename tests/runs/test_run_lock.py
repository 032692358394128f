"""A run's lock: one process at a time, whatever became of the last one."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffpo.core.errors import UserError
from diffpo.runs.run_lock import LOCK, RunLock


def test_a_second_one_is_told_who_has_it(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        lock.acquire()
        lock.acquire()
        with RunLock(tmp_path) as second:
            with pytest.raises(UserError, match=r"is in use by another run \(another call in this process\); wait"):
                second.acquire()
            assert not second.is_held
            (tmp_path / LOCK).write_text("process 1 on elsewhere")
            with pytest.raises(UserError, match=r"in use by another run \(process 1 on elsewhere\); wait"):
                second.require_free()
            lock.require_free()
        assert (tmp_path / LOCK).exists(), "the second one has not removed it"
    assert list(tmp_path.iterdir()) == []
    with RunLock(tmp_path) as third:
        third.require_free()
        third.acquire()


def test_it_ends_with_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path) as lock:
        lock.acquire()
        raise ZeroDivisionError
    with RunLock(tmp_path) as lock:
        lock.acquire()


def test_what_a_killed_process_left_locks_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom diffpo.runs.run_lock import RunLock\n"
        "RunLock(Path(sys.argv[1])).acquire()\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert (tmp_path / LOCK).exists()
    with RunLock(tmp_path) as lock:
        lock.acquire()


def test_a_file_that_its_owner_removes_in_between_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened just before the owner gives it back: a lock on it would keep nobody out."""
    flock = fcntl.flock
    first = RunLock(tmp_path)
    first.acquire()

    def after_it_is_given_back(*arguments: Any) -> None:
        monkeypatch.undo()
        first.__exit__(None, None, None)
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", after_it_is_given_back)
    with RunLock(tmp_path) as second, RunLock(tmp_path) as third:
        second.acquire()
        assert (tmp_path / LOCK).exists()
        with pytest.raises(UserError, match="is in use by another run"):
            third.acquire()


def test_without_locks_of_the_file_system_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with RunLock(tmp_path) as lock:
        lock.acquire()
        assert lock.is_held
    assert "cannot be locked (Function not implemented); start no second run in it" in capsys.readouterr().err
