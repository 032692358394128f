"""Two processes never write one run: a lock on the run's folder, which ends with the process that has it."""

import fcntl
import os
import socket
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
                file.seek(0)
                owner = file.read(200).decode(errors="replace").strip() or "another process"
                file.close()
                raise UserError(f"{self._path.parent} is being trained by {owner}; wait for it, or end it") from error
            except OSError as error:
                warn(f"diffpo: {self._path.parent} cannot be locked ({error.strerror}); start no second run in it")
            if not self._is_current(file):  # its owner has removed it in between
                file.close()
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            self._file = file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _is_current(self, file: FileIO) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False
