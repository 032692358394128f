"""Print lines that nobody may be reading any more: a closed pipe or terminal ends no run."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Stream = Literal["stdout", "stderr"]
READER_IS_GONE = (errno.EPIPE, errno.EIO)
"""What a write gives when the pipe's reader has ended, and when the terminal was closed."""


def say(line: str) -> None:
    """Print a line to stdout at once. Where it cannot be written, nothing is printed and nothing raised."""
    with survive_closed("stdout"):
        print(line, flush=True)


def warn(line: str) -> None:
    """Print a line to stderr at once, as `say`."""
    with survive_closed("stderr"):
        print(line, file=sys.stderr, flush=True)


@contextmanager
def survive_closed(stream: Stream) -> Iterator[None]:
    """Let the block write to the stream, and go on where that fails.

    A stream whose reader has gone is sent to the null device from then on; if it was stdout, stderr has a word of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in READER_IS_GONE:
            return
        _silence(stream)
        if stream == "stdout":
            warn("diffpo: nobody reads the output any more; the run goes on without it")
    except ValueError:  # the stream object itself was closed
        return


def _silence(stream: Stream) -> None:
    with suppress(AttributeError, OSError, ValueError):  # where it is no file, or none at all
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, getattr(sys, stream).fileno())
        os.close(nowhere)
