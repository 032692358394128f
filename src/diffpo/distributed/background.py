"""Work behind a loop's back: in a thread of each process, whose collectives do not mix with the loop's."""

from collections.abc import Callable
from threading import Thread

from diffpo.distributed.collectives import second_group, through


class Background:
    """Does one piece of work at a time while the caller goes on. All processes must make the same calls.

    Collectives that the work makes go through a group of their own.
    """

    def __init__(self) -> None:
        self._group = second_group()
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the work has raised in this process, which `wait` is to tell."""
        return self._error is not None

    def start(self, work: Callable[[], None]) -> None:
        """Begin to do `work`. What was begun before must have been waited for.

        The thread dies with the process: whoever is interrupted does not wait for it.
        """

        def do() -> None:
            try:
                with through(self._group):
                    work()
            except BaseException as error:  # noqa: BLE001  `wait` raises it
                self._error = error

        self._thread = Thread(target=do, name="background", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until what was begun is done, and raise what it has raised."""
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
