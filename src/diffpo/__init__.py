"""Reinforcement learning for masked diffusion language models: accuracy, and the denoiser calls that it takes.

`__init__.pyi` lists the public names with their types. Each is imported when it is first used, so `import diffpo`
itself imports no torch.
"""

import lazy_loader

from diffpo.core.imports import unchanged_process

__version__ = "0.1.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    with unchanged_process():
        return _load(name)
