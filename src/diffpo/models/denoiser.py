"""The denoiser: the protocol that samplers and likelihoods use, and a transformers model behind it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffpo.core.errors import UserError
from diffpo.models.denoiser_output import DenoiserOutput, HiddenStates, Logits
from diffpo.models.kv_cache import Cache, Window
from diffpo.models.layers import is_sdpa
from diffpo.models.lm_head import LMHead, mask_forbidden_

FULL_LOGITS_MAX_VOCAB = 4096
"""Vocabularies up to this size keep their logits: nothing is gained by avoiding them (docs/performance.md)."""


@runtime_checkable
class Denoiser(Protocol):
    """A network that gives the distribution of every masked token of a canvas at once.

    It is asked only for the positions whose distribution is needed, and gives the mask token no probability.
    """

    @property
    def mask_id(self) -> int: ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion."""
        ...

    def predict(
        self, canvas: Int[Tensor, "R N"], attention_mask: Bool[Tensor, "R N"], at: Bool[Tensor, "R N"]
    ) -> DenoiserOutput:
        """Return the output at the M positions where `at` is True, in row-major order."""
        ...


@runtime_checkable
class CacheableDenoiser(Denoiser, Protocol):
    """A denoiser that can keep keys and values, and then compute some positions of a canvas only."""

    def new_cache(self, rows: int, width: int) -> Cache: ...

    def predict(
        self,
        canvas: Int[Tensor, "R N"],
        attention_mask: Bool[Tensor, "R N"],
        at: Bool[Tensor, "R N"],
        window: Window | None = None,
    ) -> DenoiserOutput: ...


@dataclass
class CallCounter:
    """How much a denoiser has computed: canvases, which budgets count, and their tokens.

    Tokens include padding; what a cache saved is left out.
    """

    canvases: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class ModelDenoiser:
    """A transformers model as a denoiser, with the ids that decoding needs."""

    model: PreTrainedModel
    mask_id: int
    stop_ids: tuple[int, ...]
    vocabulary: int | None = None
    """Number of the tokenizer's tokens, where the embedding has more rows: the others are forbidden."""
    generation_config: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What generation_config.json in the model's folder says, for the one that is written when it is saved."""
    usage: CallCounter = field(default_factory=CallCounter, compare=False)

    def predict(
        self,
        canvas: Int[Tensor, "R N"],
        attention_mask: Bool[Tensor, "R N"],
        at: Bool[Tensor, "R N"],
        window: Window | None = None,
    ) -> DenoiserOutput:
        """Return float32 logits at the positions `at`, or their hidden states where the vocabulary is large."""
        self.usage.canvases += len(canvas)
        self.usage.tokens += canvas.numel() if window is None else window.index.numel()
        has_logits = self.lm_head is None
        found = self.model(
            input_ids=canvas, attention_mask=attention_mask, logits_at=at, window=window, has_logits=has_logits
        )
        if (head := self.lm_head) is not None:  # read after the call: a sharded model has its weight only then
            return HiddenStates(found.hidden_states[-1], head)
        return Logits(mask_forbidden_(found.logits.float(), self.mask_id, self.vocabulary), found.hidden_states[-1])

    def new_cache(self, rows: int, width: int) -> Cache:
        """Return an empty cache for `rows` canvases of one width.

        Raises UserError where the model's attention kernel cannot use one.
        """
        kernel = self.model.config._attn_implementation
        if not is_sdpa(kernel):
            raise UserError(
                f"a cache needs the attention kernel 'sdpa', and the model was loaded with '{kernel}'; load it with "
                "'sdpa', or decode with cache = 'none'"
            )
        return Cache(rows, width, self.model.shift)

    @property
    def lm_head(self) -> LMHead | None:
        """The output head; None where full logits are as good, or the head is more than a matrix (an adapter on it)."""
        head = self.model.get_output_embeddings()
        is_matrix = type(head) is nn.Linear and len(list(head.parameters())) == 1
        if not is_matrix or len(head.weight) <= FULL_LOGITS_MAX_VOCAB:
            return None
        return LMHead(head.weight, self.mask_id, self.vocabulary or len(head.weight))
