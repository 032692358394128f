"""The processes of a run find each other in the store that torchrun names, and watch each other from then on."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # its own exports

from diffpo.core.errors import PeerMissingError, UserError
from diffpo.core.output import warn
from diffpo.distributed.presence import Presence
from diffpo.distributed.process import Process, current_process

STARTING = 60.0
"""Seconds that a process waits for the others to start. torchrun starts all at once, and the first thing that each does
is to come here, so only a disk that torch is read from may keep one. Who has started may be as slow as it likes."""
GIVEN_UP = -(2**31)
"""What the first process that waits no longer adds to the number of those that have started, for all to end at once."""
HEARD_WITHIN = 0.5
"""Seconds for which it stays then, since it may be the one that keeps the store."""
STARTED, NUM_STARTED, PRESENCE, WORD = "started/{}", "started", "presence", "word"
"""Keys in the store: that a process has started, how many have, how the first one is reached, and how many have asked
for the word."""
ANSWERED_WITHIN = 5.0
"""Seconds after which a store that does not answer is gone, with the machine or the process that kept it."""
LAST_WORD = 1.0
"""Seconds in which a process that torchrun ends, since another has ended, says so where it is the one to."""


@contextmanager
def present() -> Iterator[Store]:
    """Meet the other processes of the run, and watch each other until the block ends; give the store that all share.

    A process that leaves the block by an error says why itself, but for a PeerFailedError. Raises PeerMissingError with
    the names of those that have not started in time, UserError where the environment does not say where to meet.
    """
    process, place = current_process(), _meeting_place()
    store = _store_at(place, process, is_kept_here=process.is_main and not _is_kept_by_torchrun())
    # Of its own, since a store that waits for a key keeps others from asking.
    presence = Presence(process.rank, _word_in(_store_at(place, process, is_kept_here=False), process))
    if process.is_main:
        store.set(PRESENCE, presence.listen(place[0]))
    with presence.announced():
        _wait_for_all(store, process)
        if not process.is_main:
            _connect(presence, store.get(PRESENCE).decode())
        with _dying_with_a_word(presence):
            yield store


def _wait_for_all(store: Store, process: Process) -> None:
    ranks = range(process.world_size)
    until = time.monotonic() + STARTING
    missing = ["0"]  # it keeps the store, should that be lost
    with suppress(RuntimeError):
        store.set(STARTED.format(process.rank), "")
        count = store.add(NUM_STARTED, 1)
        while 0 <= count < process.world_size and time.monotonic() < until:
            time.sleep(0.1)
            count = store.add(NUM_STARTED, 0)
        missing = [str(rank) for rank in ranks if not store.check([STARTED.format(rank)])]
        if missing and count >= 0:
            store.add(NUM_STARTED, GIVEN_UP)
            time.sleep(HEARD_WITHIN)
    if missing:
        who = f"process {missing[0]} has" if len(missing) == 1 else f"processes {', '.join(missing)} have"
        raise PeerMissingError(
            f"{who} not started within {STARTING:g} s, of {process.world_size} in this run; see what "
            "is printed there, and start all again"
        )


def _connect(presence: Presence, told: str) -> None:
    """Let the first process watch this one, if there is a way to it."""
    try:
        presence.connect(told)
    except OSError as error:
        warn(
            f"diffpo: process {presence.rank} cannot be watched by process 0 ({error}); should a machine vanish, the "
            "others wait for it for hours; let the machines connect to each other on all ports"
        )


def _meeting_place() -> tuple[str, int]:
    given = {name: os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT")}
    if missing := [name for name, value in given.items() if not value]:
        raise UserError(f"the environment has LOCAL_RANK and lacks {' and '.join(missing)}; start it by torchrun")
    address, port = given.values()
    if not (port.isascii() and port.isdigit() and int(port[:7]) < 2**16):
        told = ", ".join(f"{name}={value!r:.60}" for name, value in given.items())
        raise UserError(f"the environment has {told}, where no processes can meet; start it by torchrun")
    return address, int(port)


def _store_at(place: tuple[str, int], process: Process, is_kept_here: bool) -> Store:
    """Return the store: torchrun's own, or one that the first process keeps. Each start of a run has its own keys."""
    host, port = place
    try:
        size = process.world_size
        store = TCPStore(
            host, port, size, is_kept_here, timedelta(seconds=STARTING), wait_for_workers=False, multi_tenant=True
        )
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise PeerMissingError(
            f"process {process.rank} has found nobody at {host}, port {port}, within {STARTING:g} s: "
            f"process 0 has not started there, or cannot be reached ({reason})"
        ) from error
    return PrefixStore(f"diffpo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _word_in(store: Store, process: Process) -> Callable[[bool], bool]:
    """Return a function that tells whether this process is the first of all to call it.

    Where the store is lost nobody can tell any more; then the first process of each machine counts as the one, and the
    second of all, whose machine may have lost its first.
    """

    def ask_for_word(is_first_lost: bool) -> bool:
        asked: list[bool] = []

        def ask() -> None:
            with suppress(RuntimeError):  # the store is gone
                asked.append(store.add(WORD, 1) == 1)

        if not is_first_lost or _is_kept_by_torchrun():
            thread = threading.Thread(target=ask, name="the word", daemon=True)
            thread.start()
            thread.join(ANSWERED_WITHIN)
        return asked[0] if asked else process.local_rank == 0 or process.rank == 1

    return ask_for_word


def _is_kept_by_torchrun() -> bool:
    """Return whether the store is torchrun's own, and not the first process's."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


@contextmanager
def _dying_with_a_word(presence: Presence) -> Iterator[None]:
    """In the block, and behind it if it raises, let a SIGTERM that would end the process at once wait for a moment.

    For torchrun sends it when another process has ended, and that is to be said first.
    Loops that stop between two steps handle the signal themselves.
    """
    is_default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        presence.wait_for_word(LAST_WORD)
        presence.take_word()  # what was asked for is no loss
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
