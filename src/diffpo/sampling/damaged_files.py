"""Say of a learned sampler's files that they cannot be loaded, and why."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from diffpo.core.errors import UserError
from diffpo.models.model_paths import first_line


@contextmanager
def explain_damaged_sampler(folder: Path) -> Iterator[None]:
    """Turn whatever reading the files of a learned sampler raises into a UserError that names their folder."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"the learned sampler in {folder} cannot be loaded: its config lacks {error}") from error
    except (OSError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the learned sampler in {folder} cannot be loaded: {first_line(error)}") from error
