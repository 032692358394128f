"""Two processes never write one run: a lock on the run's folder, which ends with the process that has it."""

import fcntl
import os
import socket
from contextlib import AbstractContextManager, nullcontext, suppress
from io import FileIO
from pathlib import Path
from types import TracebackType

from diffpo.core.errors import UserError
from diffpo.core.files import explain_write_errors
from diffpo.core.output import warn

LOCK = ".run.lock"


class RunLock:
    """Context manager that gives back, at the block's end, the lock that `acquire` has taken within it.

    The file says which process has the lock, and is removed with it. One that a killed process has left locks nothing.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / LOCK
        self._file: FileIO | None = None

    @property
    def is_held(self) -> bool:
        return self._file is not None

    def require_free(self) -> None:
        """Raise UserError where another has the lock. It may be taken a moment later: `acquire` is what counts."""
        if self.is_held:
            return
        with suppress(OSError), self._path.open("rb", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(self._in_use(file)) from error

    def __enter__(self) -> "RunLock":
        return self

    def acquire(self) -> None:
        """Take the lock of the folder, which must be there, unless it has it.

        Raises UserError where another process has it, and where the folder cannot be written. Where the file system has
        no locks it says so, and goes on without.
        """
        while not self.is_held:
            with explain_write_errors(self._path.parent, is_folder=True):
                file = self._path.open("a+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                told = self._in_use(file)
                file.close()
                raise UserError(told) from error
            except OSError as error:
                warn(f"diffpo: {self._path.parent} cannot be locked ({error.strerror}); start no second run in it")
            if not self._is_current(file):  # its owner has removed it in between
                file.close()
                continue
            file.truncate(0)
            file.write(f"{_this_process()}\n".encode())
            self._file = file

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _in_use(self, file: FileIO) -> str:
        """Return a sentence about who has the lock, which the file says."""
        file.seek(0)
        owner = file.read(200).decode(errors="replace").strip() or "another process"
        who = "another call in this process" if owner == _this_process() else owner
        return f"{self._path.parent} is in use by another run ({who}); wait for it, end it, or choose another --out"

    def _is_current(self, file: FileIO) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False


def locked(run: Path, lock: RunLock | None) -> AbstractContextManager[RunLock]:
    """Return, for a block, the lock of a run: a new one, or the caller's, which the block's end does not give back."""
    return RunLock(run) if lock is None else nullcontext(lock)


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
