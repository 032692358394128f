"""Who of a run's processes is still there: a connection from each to the first, which their kernels keep alive.

A connection ends with its process, however that ends. Where a machine vanishes nothing ends it, but that machine no
longer answers when the kernel of the other side asks. Neither needs the process itself: one that computes for minutes,
holds Python's lock, or is stopped by a debugger is not missed, as it would be if a thread of it had to give a sign of
life. Nothing travels on a connection but a greeting and the news of an end. Imports no torch.
"""

import hmac
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from diffpo.core.errors import PeerFailedError
from diffpo.core.output import warn

ASK_AFTER, ASK_EVERY, ASK_TIMES = 15, 5, 6
"""Seconds of silence after which a kernel asks whether the other is there, seconds between questions, and how many.

A machine is given up after 45 s: a network may pause for so long, and all processes have ended within a minute of its
loss."""
GRACE = 10.0
"""Seconds that this process has to end by itself, and clean up, once another is lost."""
CLEANED_UP_EVERY = 1.0
"""Seconds within which the thread notices that the process has left the run."""
REACHED_WITHIN = 10.0
"""Seconds that a connection to the first process may take to come about."""
LONGEST_LINE = 4096
"""Bytes; who sends more belongs to no run."""

LOST = "what was checkpointed stays, and --resume goes on"
ENDED = "process {rank} (on {host}) has ended without a word, as one that is killed or has no memory left"
VANISHED = "process {rank} (on {host}) no longer answers: its machine is lost, or cannot be reached"


@dataclass(eq=False)
class _Peer:
    """The other end of a connection."""

    connection: socket.socket
    rank: int | None = None
    """None until it has greeted."""
    host: str = ""
    received: bytes = b""


@dataclass(eq=False)
class Presence:
    """This process among those that watch each other, from when all have started until it leaves.

    The first process watches all, and tells the others whom it has lost; they watch the first. Upon a loss one of
    them, the first to take the word, says so, and each ends with exit code 1, whatever it is waiting for.
    """

    rank: int
    ask_for_word: Callable[[bool], bool]
    """Whether this process is the one to say why the run ends; only the first that asks is. The argument says whether
    the first process is lost."""
    is_told: bool = False
    """Whether a process is lost, and somebody has said so."""
    is_leaving: bool = False
    """Whether this process has done its part, so that it misses nobody."""
    has_left: bool = False
    """Whether it has said so to the others."""
    _has_asked: bool = False
    _is_first_lost: bool = False
    _peers: list[_Peer] = field(default_factory=list)
    _token: str = ""
    _listener: socket.socket | None = None

    def listen(self, towards: str) -> str:
        """As the first process wait for the others; return, as JSON, where and how they reach it.

        `towards`: an address of the network that they come by.
        """
        self._token = secrets.token_hex(16)
        is_dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if is_dual else socket.AF_INET
        self._listener = socket.create_server(("", 0), family=family, backlog=4096, dualstack_ipv6=is_dual)
        self._start()
        port = self._listener.getsockname()[1]
        addresses = addresses_of_this_machine(towards)
        host = socket.gethostname()
        return json.dumps({"host": host, "addresses": addresses, "port": port, "token": self._token})

    def connect(self, told: str) -> None:
        """Greet the first process, which has told where it is. Raises OSError where it cannot be reached."""
        found = json.loads(told)
        connection = _reach(found["addresses"], found["port"])
        _keep_alive(connection)
        _send(connection, {"token": found["token"], "rank": self.rank, "host": socket.gethostname()})
        self._peers.append(_Peer(connection, 0, found["host"]))
        self._start()

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Take part for the block. Who leaves it by an error has the word, unless another process has failed."""
        _present.append(self)
        try:
            yield
        except PeerFailedError:
            raise
        except BaseException:
            self.take_word()
            raise
        self._leave()
        _present.remove(self)

    def _leave(self) -> None:
        """Tell the others that this process has done its part, so that nobody misses it."""
        self.is_leaving = True
        for peer in list(self._peers):
            _send(peer.connection, {"left": self.rank})
        self.has_left = True

    def take_word(self) -> bool:
        """Return whether this process is now the one to say why the run ends; True at most once."""
        has_asked, self._has_asked = self._has_asked, True
        return not has_asked and self.ask_for_word(self._is_first_lost)

    def wait_for_word(self, seconds: float) -> None:
        """Return once a loss has been told, or after so many seconds. It may be called in a signal's handler."""
        until = time.monotonic() + seconds
        while not self.is_told and time.monotonic() < until:
            time.sleep(0.02)

    def _start(self) -> None:
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._watch, name="watch of the other processes", daemon=True).start()

    def _forget(self) -> None:
        """Close a forked child's copies, which would outlive this process and keep its end from the others."""
        for connection in (self._listener, *(peer.connection for peer in self._peers)):
            if connection is not None:
                connection.close()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer in self._peers:
                selector.register(peer.connection, selectors.EVENT_READ, peer)
            if self._listener is not None:
                selector.register(self._listener, selectors.EVENT_READ)
            while not self.has_left:
                for key, _ in selector.select(CLEANED_UP_EVERY):
                    if key.data is None:
                        self._admit(selector)
                    elif (loss := self._hear(key.data)) is not None and not self.is_leaving:
                        return self._end(loss)
                    elif key.data not in self._peers:
                        selector.unregister(key.fileobj)
                        key.data.connection.close()
        self._forget()

    def _admit(self, selector: selectors.BaseSelector) -> None:
        assert self._listener is not None
        with suppress(OSError):  # who has gone again before he was let in
            peer = _Peer(self._listener.accept()[0])
            _keep_alive(peer.connection)
            self._peers.append(peer)
            selector.register(peer.connection, selectors.EVENT_READ, peer)

    def _hear(self, peer: _Peer) -> str | None:
        """Read what a peer has sent; return a sentence if a process is lost. A peer that has left is dropped."""
        form = ENDED
        try:
            received = peer.connection.recv(LONGEST_LINE)
        except (ConnectionResetError, BrokenPipeError):
            received = b""
        except OSError:  # nobody answers, or no way leads there
            received, form = b"", VANISHED
        if not received:
            self._peers.remove(peer)
            self._is_first_lost = peer.rank == 0
            return None if peer.rank is None else f"{form.format(rank=peer.rank, host=peer.host)}; {LOST}"
        *lines, peer.received = (peer.received + received).split(b"\n")
        for message in map(_message, lines):
            if peer.rank is None and self._is_greeting(message):
                peer.rank, peer.host = int(str(message["rank"])), str(message["host"])
            elif peer.rank is None or "left" in message:
                self._peers.remove(peer)
                break
            elif "lost" in message:
                return str(message["lost"])
        else:
            if len(peer.received) > LONGEST_LINE:
                self._peers.remove(peer)
        return None

    def _is_greeting(self, message: Mapping[str, object]) -> bool:
        is_known = hmac.compare_digest(str(message.get("token")).encode(), self._token.encode())
        return is_known and isinstance(message.get("rank"), int) and "host" in message

    def _end(self, loss: str) -> None:
        for peer in self._peers if self._listener is not None else ():
            _send(peer.connection, {"lost": loss})
        if self.take_word():
            is_live = sys.stderr is not None and sys.stderr.isatty()  # where a progress bar may stand in the line
            warn(f"\ndiffpo: {loss}" if is_live else f"diffpo: {loss}")
        self.is_told = True
        time.sleep(GRACE)
        if not self.is_leaving:
            os._exit(1)  # what waits for the lost one can be ended by nothing else


_present: list[Presence] = []
"""This process's presence in the run that it takes part in."""


def is_to_speak(seconds: float) -> bool:
    """Return whether this process is to say that another has failed, after so many seconds for that one to say why."""
    if not _present:
        time.sleep(seconds)
        return True
    _present[0].wait_for_word(seconds)
    return _present[0].take_word()


def addresses_of_this_machine(towards: str) -> list[str]:
    """Return by which addresses others may reach this machine: its own on the way to an address, then that itself.

    Where both are on this machine its own would be the loopback, which is of no use to others.
    """
    own = []
    with suppress(OSError):
        family, *_, address = socket.getaddrinfo(towards, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as route:
            route.connect(address)  # sends nothing
            own.append(str(route.getsockname()[0]))
    return [*(each for each in own if not each.startswith("127.") and each != "::1"), towards]


def _reach(addresses: Sequence[str], port: int) -> socket.socket:
    for address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection((address, port), REACHED_WITHIN)
    return socket.create_connection((addresses[-1], port), REACHED_WITHIN)


def _keep_alive(connection: socket.socket) -> None:
    """Let the kernel ask whether the other end is there. Options that a system lacks are left as they are."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": ASK_AFTER,
        "TCP_KEEPALIVE": ASK_AFTER,  # its name on macOS
        "TCP_KEEPINTVL": ASK_EVERY,
        "TCP_KEEPCNT": ASK_TIMES,
        "TCP_USER_TIMEOUT": 1000 * (ASK_AFTER + ASK_EVERY * ASK_TIMES),  # for what was sent and not received
    }
    for name, value in options.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, message: Mapping[str, object]) -> None:
    with suppress(OSError):  # that it has gone is heard by who reads
        connection.sendall(json.dumps(message).encode() + b"\n")


def _message(line: bytes) -> Mapping[str, object]:
    """Return what a line says; nothing for what is no message."""
    with suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    return {}
