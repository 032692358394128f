"""Reinforcement learning for masked diffusion language models: accuracy, and the denoiser calls that it takes.

`__init__.pyi` lists the public names with their types. Each is imported when it is first used, so `import diffpo`
itself imports no torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
