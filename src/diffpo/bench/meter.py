"""Count what a piece of code asks of a model and of memory, however it is written."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

Number = int | float

_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}


class Meter(TorchDispatchMode):
    """Context manager that counts by watching every operator, backward passes included.

    It looks at the operators' tensors and does not trust any counter of the code: a lookup in the model's embedding
    counts the tokens of a call, a product with the output head's matrix, or with a part of it, counts head rows.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._embedding = model.get_input_embeddings().weight
        self._head = model.get_output_embeddings().weight
        self.calls = 0
        self.tokens = 0
        """Tokens that went into the blocks, padding included."""
        self._head_work = 0.0
        self._alive = 0
        self.peak_bytes = 0
        """The most bytes that tensors made meanwhile held at one time, without what operators need inside."""

    @property
    def head_rows(self) -> float:
        """Hidden states multiplied with the whole output head, each direction counted."""
        return self._head_work / int(self._head.numel())

    @property
    def counts(self) -> dict[str, Number]:
        return {
            "calls": self.calls,
            "tokens": self.tokens,
            "head_rows": round(self.head_rows, 3),
            "peak_bytes": self.peak_bytes,
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "embedding" and _shares(args[0], self._embedding):
            self.calls += 1
            self.tokens += args[1].numel()
        elif name in _PRODUCTS:
            left, right = args[-2:]
            if _shares(left, self._head) or _shares(right, self._head):
                self._head_work += left.numel() * right.shape[-1]
        known = {_key(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _key(tensor) not in known:
                self._made(tensor.untyped_storage())
        return out

    def _made(self, storage: torch.UntypedStorage) -> None:
        self._alive += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self._alive)
        weakref.finalize(storage, self._freed, storage.nbytes())

    def _freed(self, size: int) -> None:
        self._alive -= size


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _shares(tensor: Any, other: Tensor) -> bool:
    return isinstance(tensor, Tensor) and _key(tensor) == _key(other)
