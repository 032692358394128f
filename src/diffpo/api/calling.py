"""What holds around every call from Python: the process is left as it was, and errors speak of arguments."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffpo.core.errors import Stopped, UserError

WORDS = (
    ("the same command and --resume", "the same call and resume=True"),
    ("--resume", "resume=True"),
    ("--extend", "extend=True"),
    ("another --out", "another out"),
    ("--length", "length"),
    ("--price", "price"),
)
"""Options of the command line, and what they are in Python."""


@contextmanager
def calling() -> Iterator[None]:
    """Run a command's work as a call.

    Errors are raised as the commands print them, in Python's words. Where the user has interrupted a run, which has
    left a checkpoint, it is a KeyboardInterrupt that says so: a loop over runs does not go on with the next one.
    """
    with unchanged_torch():
        try:
            yield
        except Stopped as stopped:
            raise KeyboardInterrupt(in_python(str(stopped))) from None
        except UserError as error:
            error.args = (in_python(str(error)),)
            raise


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
    return message
