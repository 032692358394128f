"""What holds around every call from Python: the process is left as it was, and errors speak of arguments."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from diffpo.core.errors import PeerFailedError, Stopped, UserError
from diffpo.core.files import unusable_path
from diffpo.core.imports import unchanged_process
from diffpo.core.output import worded

WORDS = (
    ("the same command and --resume", "the same call and resume=True"),
    ("--resume", "resume=True"),
    ("--extend", "extend=True"),
    ("another --out", "another out"),
    ("--length", "length"),
    ("--out", "out"),
)
"""Options of the command line, and what they are in Python."""
HANDED_OVER = re.compile(r"python:([^\s#,;:'\"]+)#[0-9a-f]+")
"""The name that a recipe has for a function which was handed over; to its author it is the function's own."""


@contextmanager
def calling() -> Iterator[None]:
    """Run a command's work as a call.

    Errors are raised as the commands print them, in Python's words. Where the user has interrupted a run, which has
    left a checkpoint, it is a KeyboardInterrupt that says so: a loop over runs does not go on with the next one.
    """
    with unchanged_torch(), unchanged_process(), worded(in_python):
        try:
            yield
        except Stopped as stopped:
            raise KeyboardInterrupt(in_python(str(stopped))) from None
        except (UserError, PeerFailedError) as error:
            error.args = (in_python(str(error)),)
            raise
        except OSError as error:
            if (told := unusable_path(error)) is None:
                raise
            raise UserError(told) from error


@contextmanager
def unchanged_torch() -> Iterator[None]:
    """Give torch back its threads, default dtype, gradient mode and current device after the block."""
    import torch

    threads, dtype, has_gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(has_gradients)
        if device is not None:
            torch.cuda.set_device(device)


def in_python(message: str) -> str:
    """Return a message of a command with arguments in place of options."""
    for option, argument in WORDS:
        message = message.replace(option, argument)
    if " in the overrides:" in message:  # all of which were keywords
        message = message.replace(" in the overrides:", " in the keywords:").replace(
            "unknown option", "no such keyword"
        )
    return HANDED_OVER.sub(r"\1", message)
