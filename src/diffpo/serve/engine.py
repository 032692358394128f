"""One thread that draws completions for everyone who asks, in one batch that rows join as others leave it."""

import threading
from collections.abc import Callable, Collection, Sequence

import torch

from diffpo.core.errors import NonFiniteLogitsError
from diffpo.core.output import warn
from diffpo.core.user_code import traceback_of
from diffpo.models.denoiser import Denoiser
from diffpo.sampling.running import Committed, Row, RunningBatch
from diffpo.serve.turns import Turns

Listener = Callable[[Committed | Exception], None]
"""Is told, in any thread, what each call has committed in a row, or why the row will get nothing more."""


class QueueFullError(Exception):
    """As many completions wait as may."""


class ClosedError(Exception):
    """The server is being stopped."""


class Engine:
    """Draws rows with one denoiser, at most `most_running` at a time; at most `most_waiting` others wait.

    Requests take turns (`Turns`); a row is what it would be alone (`RunningBatch`). Its methods may be called from any
    thread.
    """

    def __init__(self, denoiser: Denoiser, device: torch.device, most_running: int, most_waiting: int) -> None:
        self.most_running, self.most_waiting = most_running, most_waiting
        self._denoiser, self._device = denoiser, device
        self._batch = RunningBatch(denoiser, device)
        self._changed = threading.Condition()
        self._turns = Turns(most_running)
        self._listeners: dict[int, Listener] = {}
        self._leaving: set[int] = set()
        self._next_key = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="diffpo-engine", daemon=True)
        self._thread.start()

    def keys(self, count: int) -> range:
        """Return keys for so many new rows."""
        with self._changed:
            first, self._next_key = self._next_key, self._next_key + count
        return range(first, first + count)

    def submit(self, rows: Sequence[Row], listeners: Sequence[Listener]) -> None:
        """Let the rows of one request, whose keys are from `keys`, take part as soon as it is the turn of each.

        Raises QueueFullError where not all of them can wait, ClosedError after `close`.
        """
        with self._changed:
            if self._is_closed:
                raise ClosedError
            if len(self._listeners) + len(rows) > self.most_running + self.most_waiting:
                raise QueueFullError
            self._turns.add(rows)
            self._listeners |= {row.key: listener for row, listener in zip(rows, listeners, strict=True)}
            self._changed.notify()

    def withdraw(self, keys: Collection[int]) -> None:
        """Let rows go: those that wait at once, those that are drawn before the next call. Others are passed over."""
        with self._changed:
            gone = {key for key in keys if self._listeners.pop(key, None)}
            self._turns.forget(gone)
            self._leaving |= gone

    def load(self) -> tuple[int, int]:
        """Return how many rows are drawn, and how many wait."""
        with self._changed:
            waiting = len(self._turns.waiting())
            return len(self._listeners) - waiting, waiting

    def stop(self) -> None:
        """Take no more rows, and tell those that are not done ClosedError at once, whatever call is running."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._fail(ClosedError(), is_waiting_spared=False)

    def close(self, seconds: float | None = None) -> bool:
        """Stop, and return whether the call that is running has ended, waiting for it that long. None: until it has."""
        self.stop()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (coming := self._wait()) is not None:
            try:
                self._batch.add(coming)
                found = self._batch.call()
            except Exception as error:  # noqa: BLE001  whatever it is, those that wait are served after it
                if not isinstance(error, NonFiniteLogitsError):
                    warn(traceback_of(error))
                self._batch = RunningBatch(self._denoiser, self._device)
                with self._changed:
                    self._turns.clear_places()
                self._fail(error, is_waiting_spared=True)
                continue
            for one in found:
                self._tell(one)

    def _wait(self) -> list[Row] | None:
        """Wait until there is something to draw, let rows go, and return those that come in; None once it is closed."""
        with self._changed:
            while not self._is_closed:
                self._batch.remove(self._leaving)
                self._turns.leave(self._leaving)
                self._leaving.clear()
                coming = self._turns.take()
                if coming or len(self._batch):
                    return coming
                self._changed.wait()
        return None

    def _tell(self, one: Committed) -> None:
        with self._changed:
            listener = self._listeners.get(one.key)
            if one.is_done:
                self._listeners.pop(one.key, None)
                self._turns.leave([one.key])
        if listener is not None:
            listener(one)

    def _fail(self, error: Exception, is_waiting_spared: bool) -> None:
        with self._changed:
            waiting = self._turns.waiting()
            spared = set(waiting) if is_waiting_spared else set()
            failed = [listener for key, listener in self._listeners.items() if key not in spared]
            if not is_waiting_spared:
                self._turns.forget(waiting)
            self._listeners = {key: listener for key, listener in self._listeners.items() if key in spared}
        for listener in failed:
            listener(error)
