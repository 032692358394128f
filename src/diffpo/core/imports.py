"""Libraries change the process where they are imported; a call of diffpo leaves it as it was."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

COMPILED = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch's compiler keeps its code. It names its default there when it is imported."""


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Take back, after the block, the filters of warnings and the variable of the environment that imports have set."""
    filters, folder = list(warnings.filters), os.environ.get(COMPILED)
    try:
        yield
    finally:
        warnings.filters = [one for one in warnings.filters if one in filters]
        if folder is None:
            os.environ.pop(COMPILED, None)
