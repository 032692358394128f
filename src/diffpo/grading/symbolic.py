"""Whether two LaTeX texts mean the same, decided by math-verify in a process of its own (docs/decisions/0012).

math-verify parses with SymPy, which some texts keep busy for hours or fill with gigabytes, and its own time limit
steals the caller's alarm and does not work in threads. Here a text that is too much ends the worker, and the next call
has a new one. An answer is capped, and what math-verify is too kind to is refused before it is asked.
"""

import atexit
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

Verdict = Literal["equal", "different", "unreadable", "failed"]
"""unreadable: the answer is no mathematics, or too much of it; failed: the gold answer or the worker is at fault."""

MAX_CHARACTERS = 400
MAX_DEPTH = 20
"""Of brackets in brackets, for which the parser's time grows fastest."""
MEMORY_BYTES = 2**31
CPU_SECONDS = 2.0
"""For one comparison. A usual one takes hundredths of it; a busy machine changes nothing."""
WALL_SECONDS = 120.0
"""For one comparison, and for starting: past it the machine is at fault, not the answer."""

_WORKER = Path(__file__).with_name("symbolic_worker.py")
_NAME = re.compile(r"^[A-Za-z](?:_\{?\w\}?)?(?:\([A-Za-z]\))? ?= ?")


def equal(gold: str, answer: str) -> Verdict:
    r"""Compare by value: `\frac{x}{4}` equals `x/4` and `0.25x`. Never raises, and takes at most some seconds.

    A name before an answer (`x = 4`) is taken off unless the gold answer has one too. An answer with another "=" or a
    `\pm` that the gold answer lacks is different: math-verify would look at one side, or at a set, only.
    """
    if len(answer) > MAX_CHARACTERS or "\0" in answer or _depth(answer) > MAX_DEPTH:
        return "unreadable"
    if "=" not in gold:
        answer = _NAME.sub("", answer)
    for sign in ("=", "\\pm", "\\mp", "\\boxed", "$"):
        if sign in answer and sign not in gold:
            return "different"
    return _pool.compare(gold, answer)


def _depth(text: str) -> int:
    steps = ((mark in "({[") - (mark in ")}]") for mark in text)
    return max(accumulate(steps), default=0)


@dataclass
class _Worker:
    """A running worker process, which belongs to the process that started it: a fork must not talk to it."""

    process: subprocess.Popen[bytes]
    owner: int
    unread: bytes = b""

    def ask(self, gold: str, answer: str) -> Verdict:
        until = time.monotonic() + WALL_SECONDS
        try:
            self.send(json.dumps([gold, answer]))
            reply = self.line(until)
            if reply != "gold":
                return "failed"
            reply = self.line(until)
        except (OSError, TimeoutError):
            self.end()
            return "failed"
        match reply:
            case "equal" | "different":
                return reply
            case _:
                return "unreadable"

    def send(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode("ascii") + b"\n")
        self.process.stdin.flush()

    def line(self, until: float) -> str:
        """The next line; empty, and the worker ended, when it died. Raises TimeoutError."""
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        while b"\n" not in self.unread:
            ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError
            more = os.read(pipe, 4096)
            if not more:
                self.end()
                return ""
            self.unread += more
        line, self.unread = self.unread.split(b"\n", 1)
        return line.decode("ascii", "replace")

    @property
    def is_mine(self) -> bool:
        return self.owner == os.getpid() and self.process.returncode is None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


class _Pool:
    """One worker, started when first needed, used by one thread at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.worker: _Worker | None = None
        self.strangers: list[_Worker | None] = []

    def compare(self, gold: str, answer: str) -> Verdict:
        with self.lock:
            if self.worker is None or not self.worker.is_mine:
                self.strangers.append(self.worker)  # kept: dropping a running one warns
                self.worker = _start()
            return self.worker.ask(gold, answer) if self.worker else "failed"

    def forget(self) -> None:
        """After a fork: the lock may be held by a thread that the child does not have."""
        self.lock = threading.Lock()

    def close(self) -> None:
        if self.worker is not None and self.worker.is_mine:
            self.worker.end()


def _start() -> _Worker | None:
    command = [sys.executable, "-P", "-B", str(_WORKER), str(MEMORY_BYTES), str(CPU_SECONDS)]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
    except OSError:
        return None
    worker = _Worker(process, os.getpid())
    with suppress(TimeoutError):
        if worker.line(time.monotonic() + WALL_SECONDS) == "ready":
            return worker
    worker.end()
    return None


_pool = _Pool()
atexit.register(_pool.close)
os.register_at_fork(after_in_child=_pool.forget)
