"""Print lines that nobody may be reading any more: a closed pipe or terminal ends no run.

All that diffpo prints goes through here, so that no text of a model, a file or the hub controls the terminal.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import TextIOWrapper
from typing import Any, Literal

from diffpo.core.printable import printable
from diffpo.core.user_code import traceback_of

Stream = Literal["stdout", "stderr"]
READER_IS_GONE = (errno.EPIPE, errno.EIO)
"""What a write gives when the pipe's reader has ended, and when the terminal was closed."""
_words: ContextVar[Callable[[str], str]] = ContextVar("the words of lines", default=str)
_CURSOR = re.compile(r"\r|(\n|\x1b\[A)+\Z")
"""How a progress bar of a library begins a write (back to the line's start) or moves between lines."""


def show(text: str) -> None:
    """Print a result to stdout. Where it cannot be written, nothing is printed and nothing raised."""
    with survive_closed("stdout", is_told=False):
        print(printable(text), flush=True)


def say(line: str) -> None:
    """Print a line of a run that goes on to stdout, as `show`; stderr is told once if nobody reads it."""
    with survive_closed("stdout"):
        print(printable(_words.get()(line)), flush=True)


def warn(line: str) -> None:
    """Print a line to stderr at once, as `show`."""
    with survive_closed("stderr"):
        print(printable(_words.get()(line)), file=sys.stderr, flush=True)


@contextmanager
def worded(by: Callable[[str], str]) -> Iterator[None]:
    """Change, while the block runs, what `say` and `warn` print in its thread: who called knows no options."""
    token = _words.set(by)
    try:
        yield
    finally:
        _words.reset(token)


@contextmanager
def survive_closed(stream: Stream, is_told: bool = True) -> Iterator[None]:
    """Let the block write to the stream, and go on where that fails.

    A stream whose reader has gone is sent to the null device from then on; if it was stdout, stderr has a word of it,
    unless it shall not be told.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in READER_IS_GONE:
            return
        _silence(stream)
        if stream == "stdout" and is_told:
            warn("diffpo: nobody reads the output any more; the run goes on without it")
    except ValueError:  # the stream object itself was closed
        return


@contextmanager
def guarded_streams() -> Iterator[None]:
    """While the block runs, make what libraries print to stderr printable too: logs, warnings, usage errors.

    The traceback that ends the process is printable from then on, and a sign that stdout's encoding lacks is escaped.
    """
    stderr = sys.stderr
    sys.excepthook = lambda kind, error, trace: warn(traceback_of(error))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if stderr is not None:
        sys.stderr = _PrintableStream(stderr)
    try:
        yield
    finally:
        sys.stderr = stderr


class _PrintableStream:
    """A text stream that escapes what does not print, cursor movements of progress bars apart."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        start = found.end() if (found := _CURSOR.match(text)) else 0
        return int(self._stream.write(text[:start] + printable(text[start:])))

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _silence(stream: Stream) -> None:
    with suppress(AttributeError, OSError, ValueError):  # where it is no file, or none at all
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, getattr(sys, stream).fileno())
        os.close(nowhere)
