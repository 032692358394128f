"""Dream (arXiv 2508.15487) and DiffuCoder (arXiv 2506.20639): Qwen2 made bidirectional, to predict masked tokens.

Config fields and parameter names are those of the published checkpoints, so Dream-7B is only another config. It was
made from an autoregressive model and still predicts a token from the position before it. This file hides that shift:
its logits at position k predict token k, as in every family (docs/decisions/0011-loading-models.md).
"""

from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, Qwen2Tokenizer
from transformers.modeling_outputs import MaskedLMOutput

from diffpo.models.family import Family
from diffpo.models.kv_cache import Window
from diffpo.models.layers import (
    AttentionContext,
    OutputPositions,
    RMSNorm,
    attend,
    initialise,
    prepare_inputs,
    run_blocks,
    select_positions,
    swiglu,
)


class DreamConfig(PretrainedConfig):
    """Dream's config. The defaults are a tiny model; other published fields are kept unchanged."""

    model_type = "Dream"

    def __init__(
        self,
        hidden_size: int = 128,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        num_key_value_heads: int | None = None,
        intermediate_size: int = 352,
        vocab_size: int = 32,
        max_position_embeddings: int = 128,
        rope_theta: float = 100.0,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 0.05,
        mask_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.intermediate_size = intermediate_size
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        # transformers 5 writes rope_theta into a table; the published files have it as a field of its own.
        self.rope_theta = (kwargs.pop("rope_parameters", None) or {}).get("rope_theta", rope_theta)
        kwargs.pop("rope_scaling", None)  # null in the published files; transformers 5 warns of the name alone
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.mask_token_id = mask_token_id
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


class DreamTokenizer(Qwen2Tokenizer):
    """Qwen2's tokenizer under the class name that Dream's checkpoints give, read from vocab.json and merges.txt."""


class DreamAttention(nn.Module):
    """Attention whose queries, keys and values have a bias and whose output has none."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        kv_size = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=True)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=True)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self, n: Float[Tensor, "B N D"], context: AttentionContext, outputs: OutputPositions | None
    ) -> Float[Tensor, "B W D"]:
        # q comes before k and v: gradients add up in the order of use.
        q = self.q_proj(n if outputs is None else outputs.select(n))
        return cast(Tensor, self.o_proj(attend(self, q, self.k_proj(n), self.v_proj(n), context, outputs)))


class DreamMLP(nn.Module):
    """The MLP of a block: down(silu(gate n) * up n)."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, n: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return cast(Tensor, self.down_proj(swiglu(self.gate_proj(n), self.up_proj(n))))


class DreamDecoderLayer(nn.Module):
    """One block: h += attention(norm h); h += mlp(norm h)."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.self_attn = DreamAttention(config)
        self.mlp = DreamMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, h: Float[Tensor, "B N D"], context: AttentionContext, outputs: OutputPositions | None = None
    ) -> Float[Tensor, "B W D"]:
        mixed = self.self_attn(self.input_layernorm(h), context, outputs)
        h = mixed + (h if outputs is None else outputs.select(h))
        return h + cast(Tensor, self.mlp(self.post_attention_layernorm(h)))


class DreamBaseModel(nn.Module):
    """Embedding, blocks and final norm, under the published names."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DreamDecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class DreamModel(PreTrainedModel):
    """The whole model. Published key names: `model.{embed_tokens, layers.i.*, norm}`, `lm_head.weight`."""

    config_class = DreamConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["DreamDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    shift: ClassVar[int] = 1
    """How many positions before a token it is predicted."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__(config)
        self.model = DreamBaseModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module, self.config.initializer_range)

    def forward(
        self,
        input_ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None = None,
        logits_at: Bool[Tensor, "B N"] | None = None,
        window: Window | None = None,
        has_logits: bool = True,
        **_: Any,
    ) -> MaskedLMOutput:
        """Return logits [B, N, V], or [M, V] at the M positions where `logits_at` is True, in row-major order.

        Position k's logits predict token k: they are computed at k - 1, and at k itself for a row's first visible
        token. Positions count from that token, so padding on the left changes nothing. Every row needs at least one
        visible token. `hidden_states` holds what enters the output head at these positions;
        without `has_logits` that is all.
        """
        hidden = self.states(input_ids, attention_mask, logits_at, window)
        return MaskedLMOutput(logits=self.lm_head(hidden) if has_logits else None, hidden_states=(hidden,))

    def states(
        self,
        input_ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None = None,
        at: Bool[Tensor, "B N"] | None = None,
        window: Window | None = None,
    ) -> Float[Tensor, "..."]:
        """Return the hidden state from which the head predicts each token: [B, N, D], or [M, D] at the M positions."""
        embedding = self.model.embed_tokens
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        h, context, outputs = prepare_inputs(
            self.config, embedding, input_ids, attention_mask, head_dim, at, self.shift, window
        )
        h = run_blocks(self.model.layers, h, context, self.gradient_checkpointing, outputs)
        if outputs is not None:
            return cast(Tensor, self.model.norm(h[outputs.is_output]))
        return select_positions(align_to_tokens(self.model.norm(h), context.position), at)


def align_to_tokens(h: Float[Tensor, "B N D"], position: Int[Tensor, "*B N"]) -> Float[Tensor, "B N D"]:
    """Return the states moved to the tokens they predict: the state before each token, or its own for a row's first."""
    return torch.where((position > 0)[..., None], h.roll(1, dims=1), h)


DREAM = Family(
    name="Dream",
    config=DreamConfig,
    model=DreamModel,
    mask_id=151666,
    turn_end="<|im_end|>",
    required=(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
        "rope_theta",
        "rms_norm_eps",
    ),
    layers="num_hidden_layers",
    sizes=("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"),
    optional_sizes=("max_position_embeddings",),
    fixed={
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "use_mrope": False,
        "rope_scaling": None,
        "rope_type": "default",
    },
)
