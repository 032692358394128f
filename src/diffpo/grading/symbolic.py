"""Decide whether two LaTeX texts mean the same, by math-verify in a process of its own (docs/decisions/0012).

math-verify parses with SymPy, which some texts keep busy for hours or fill with gigabytes, and its own time limit
steals the caller's alarm and does not work in threads. Here a text that exceeds the limits ends the worker, and the
next call starts a new one. Long answers, and those that math-verify would accept too kindly, are refused without it.
"""

import atexit
import json
import os
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

from diffpo.grading.latex import has_digit_gap, without_name

Verdict = Literal["equal", "different", "unparseable", "failed"]
"""unparseable: the answer is no mathematics, or exceeds a limit; failed: the gold answer or the worker is at fault."""

MAX_CHARACTERS = 400
MAX_DEPTH = 20
"""Brackets inside brackets: the parser's time grows fastest with them."""
MEMORY_BYTES = 2**31
CPU_SECONDS = 2.0
"""Limit of one comparison, in CPU time, so that a busy machine changes nothing. A usual one takes a hundredth of it."""
WALL_SECONDS = 120.0
"""Limit of one comparison, and of starting a worker: past it the machine is at fault, not the answer."""

_WORKER = Path(__file__).with_name("symbolic_worker.py")


def compare_latex(gold: str, answer: str) -> Verdict:
    r"""Compare two texts by value: `\frac{x}{4}` equals `x/4` and `0.25x`. It never raises, and takes seconds at most.

    A name before an answer (`x = 4`) is removed unless the gold answer has one too. An answer with another "=" or a
    `\pm` that the gold answer lacks is different: math-verify would look at one side, or at a set, only. So is one with
    white space between digits, which math-verify would remove.
    """
    if len(answer) > MAX_CHARACTERS or "\0" in answer or _depth(answer) > MAX_DEPTH:
        return "unparseable"
    if "=" not in gold:
        answer = without_name(answer)
    if has_digit_gap(answer) and not has_digit_gap(gold):
        return "different"
    for sign in ("=", "\\pm", "\\mp", "\\boxed", "$"):
        if sign in answer and sign not in gold:
            return "different"
    return _pool.compare(gold, answer)


def _depth(text: str) -> int:
    """Return how deep brackets stand inside brackets."""
    steps = ((mark in "({[") - (mark in ")}]") for mark in text)
    return max(accumulate(steps), default=0)


@dataclass
class _Worker:
    """A running worker process. It belongs to the process that started it: a fork must not talk to it."""

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
                return "unparseable"

    def send(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode("ascii") + b"\n")
        self.process.stdin.flush()

    def line(self, until: float) -> str:
        """Return the worker's next line; if it has died, end it and return "". Raises TimeoutError."""
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
    """The one worker, started when it is first needed, and used by one thread at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.worker: _Worker | None = None
        self.former: list[_Worker | None] = []

    def compare(self, gold: str, answer: str) -> Verdict:
        with self.lock:
            if self.worker is None or not self.worker.is_mine:
                self.former.append(self.worker)  # kept, since Python warns where a running process is dropped
                self.worker = _start()
            return self.worker.ask(gold, answer) if self.worker else "failed"

    def renew_lock(self) -> None:
        """Replace the lock after a fork: a thread that the child process lacks may hold the old one."""
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
os.register_at_fork(after_in_child=_pool.renew_lock)
