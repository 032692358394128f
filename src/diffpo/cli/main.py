"""`diffpo VERB`: runs one command and turns what it raises into a message and an exit code."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from diffpo.cli.app import app
from diffpo.cli.options import join_resume_auto, refuse_empty
from diffpo.core.errors import (
    NonFiniteLogitsError,
    NonFiniteLossError,
    PeerFailedError,
    PeerMissingError,
    Stopped,
    UserError,
)
from diffpo.core.files import unusable_path
from diffpo.core.output import guarded_streams, warn
from diffpo.core.parent import end_with_parent
from diffpo.distributed.presence import is_to_speak
from diffpo.distributed.process import current_process, require_single_process

SHARED = ("sft", "rl", "eval", "sample", "study")
"""Commands that several processes can share."""
PATIENCE = 10.0
"""Seconds after which a process prints its own error, if rank 0, which normally prints it, has not ended the run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit. Codes: 0 done, 1 our mistake, 2 the user's, 130 interrupted."""
    with guarded_streams():
        _run(join_resume_auto(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    command = next((word for word in arguments if not word.startswith("-")), "")
    try:
        end_with_parent()
        refuse_empty(arguments)
        if command not in SHARED:
            require_single_process(f"diffpo {command}".strip())
        app(arguments, prog_name="diffpo")
    except UserError as error:
        _end(f"diffpo: {error}", 2)
    except OSError as error:
        if (told := unusable_path(error)) is None:
            raise
        _end(f"diffpo: {told}", 2)
    except Stopped as stopped:
        if current_process().is_main:
            warn(f"diffpo: {stopped}")
        sys.exit(130)
    except NonFiniteLogitsError as error:
        _end(f"diffpo: {error}", 1)
    except NonFiniteLossError as error:
        _end(f"diffpo: training stopped: {error}; the last checkpoint is as it was", 1)
    except PeerFailedError as error:
        # Time for the one that failed to print why. One that has not come prints nothing.
        if is_to_speak(0 if isinstance(error, PeerMissingError) else PATIENCE):
            warn(f"diffpo: {error}")
        sys.exit(1)


def _end(message: str, code: int) -> NoReturn:
    """Print the message and exit.

    Where all processes fail alike, the first prints it and exits, upon which torchrun ends the others.
    """
    with suppress(UserError):  # the message may be about the ranks themselves
        if not current_process().is_main:
            time.sleep(2 * PATIENCE)  # a busy machine takes that long to end the others
    warn(message)
    sys.exit(code)
