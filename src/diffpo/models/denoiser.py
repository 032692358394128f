"""The border: a transformers model becomes the denoiser that samplers and likelihoods ask."""

from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffpo.core.errors import UserError
from diffpo.models.denoiser_output import DenoiserOutput, HiddenStates, Logits
from diffpo.models.kv_cache import Cache, Window
from diffpo.models.layers import is_sdpa
from diffpo.models.lm_head import LMHead, mask_forbidden_

FULL_LOGITS_MAX_VOCAB = 4096
"""Vocabularies up to this one keep their logits: there is nothing to gain (docs/performance.md)."""


@dataclass
class CallCounter:
    """What a denoiser has been shown: canvases, which budgets are counted in, and their tokens, padding included and
    what a cache spared left out."""

    canvases: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class ModelDenoiser:
    """A model with the ids that decoding needs. Calling it gives float32 logits at chosen positions only."""

    model: PreTrainedModel
    mask_id: int
    stop_ids: tuple[int, ...]
    vocabulary: int | None = None
    """How many tokens the tokenizer has, where that is fewer than the embedding's rows: the rest cannot be said."""
    usage: CallCounter = field(default_factory=CallCounter, compare=False)

    def __call__(
        self,
        canvas: Int[Tensor, "R N"],
        attention_mask: Bool[Tensor, "R N"],
        at: Bool[Tensor, "R N"],
        window: Window | None = None,
    ) -> Float[Tensor, "M V"]:
        self._count(canvas, window)
        logits = self.model(input_ids=canvas, attention_mask=attention_mask, logits_at=at, window=window).logits
        return mask_forbidden_(logits.float(), self.mask_id, self.vocabulary)

    def predict(
        self,
        canvas: Int[Tensor, "R N"],
        attention_mask: Bool[Tensor, "R N"],
        at: Bool[Tensor, "R N"],
        window: Window | None = None,
    ) -> DenoiserOutput:
        """The same, without logits in memory where the vocabulary is large."""
        head = self.head
        if head is None:
            return Logits(self(canvas, attention_mask, at, window))
        return HiddenStates(self.states(canvas, attention_mask, at, window), head)

    def states(
        self,
        canvas: Int[Tensor, "R N"],
        attention_mask: Bool[Tensor, "R N"],
        at: Bool[Tensor, "R N"],
        window: Window | None = None,
    ) -> Float[Tensor, "M D"]:
        """The hidden states that the output head reads, in the model's dtype."""
        self._count(canvas, window)
        states: Tensor = self.model.states(canvas, attention_mask, at, window)
        return states

    def new_cache(self, rows: int, width: int) -> Cache:
        """Room for the keys and values of canvases of one width. Raises UserError where the model cannot keep them."""
        kernel = self.model.config._attn_implementation
        if not is_sdpa(kernel):
            raise UserError(
                f"a cache needs the attention kernel 'sdpa', and the model was loaded with '{kernel}'; load it with "
                "'sdpa', or decode with cache = 'none'"
            )
        return Cache(rows, width, self.model.shift)

    @property
    def head(self) -> LMHead | None:
        """None where logits are as good, or the head is more than a matrix (an adapter on it)."""
        head = self.model.get_output_embeddings()
        if type(head) is not nn.Linear or len(list(head.parameters())) > 1 or len(head.weight) <= FULL_LOGITS_MAX_VOCAB:
            return None
        return LMHead(head.weight, self.mask_id, self.vocabulary or len(head.weight))

    def _count(self, canvas: Int[Tensor, "R N"], window: Window | None) -> None:
        self.usage.canvases += len(canvas)
        self.usage.tokens += canvas.numel() if window is None else window.index.numel()
