"""LLaDA (arXiv 2502.09992): a bidirectional pre-norm Llama that predicts every masked token at once.

Config fields and parameter names are those of the published checkpoints, so LLaDA-8B is only another config.
Logits are not shifted: position k predicts token k.
"""

from typing import Any, ClassVar, cast

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
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

PUBLISHED_CODE = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
    "weight_tying": False,
    "tie_word_embeddings": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
}
"""Fields of the published config that this file computes with these values only, and that the published code needs: it
takes another architecture where they are missing."""


class LLaDAConfig(PretrainedConfig):
    """LLaDA's config. The defaults are the tiny model (0.8M parameters); other published fields are kept unchanged."""

    model_type = "llada"

    def __init__(
        self,
        d_model: int = 128,
        n_layers: int = 4,
        n_heads: int = 4,
        n_kv_heads: int | None = None,
        mlp_hidden_size: int = 352,
        vocab_size: int = 32,
        embedding_size: int | None = None,
        max_sequence_length: int = 128,
        rope_theta: float = 100.0,
        rms_norm_eps: float = 1e-5,
        initializer_range: float = 0.05,
        mask_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads or n_heads
        self.mlp_hidden_size = mlp_hidden_size
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size or vocab_size
        self.max_sequence_length = max_sequence_length
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.mask_token_id = mask_token_id
        for field, value in PUBLISHED_CODE.items():
            kwargs.setdefault(field, value)
        super().__init__(**kwargs)


class LLaDABlock(nn.Module):
    """One block: h += attention(norm h); h += ff_out(silu(ff_proj n) * up_proj n) with n = norm h."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        kv_size = config.n_kv_heads * (config.d_model // config.n_heads)
        self.attn_norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k_proj = nn.Linear(config.d_model, kv_size, bias=False)
        self.v_proj = nn.Linear(config.d_model, kv_size, bias=False)
        self.attn_out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.ff_norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.ff_proj = nn.Linear(config.d_model, config.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(config.mlp_hidden_size, config.d_model, bias=False)

    def forward(
        self, h: Float[Tensor, "B N D"], context: AttentionContext, outputs: OutputPositions | None = None
    ) -> Float[Tensor, "B W D"]:
        n = self.attn_norm(h)
        # q comes before k and v: gradients add up in the order of use.
        q = self.q_proj(n if outputs is None else outputs.select(n))
        if outputs is not None:
            h = outputs.select(h)
        h = h + self.attn_out(attend(self, q, self.k_proj(n), self.v_proj(n), context, outputs))
        n = self.ff_norm(h)
        return h + cast(Tensor, self.ff_out(swiglu(self.ff_proj(n), self.up_proj(n))))


class LLaDAModel(nn.Module):
    """Embedding, blocks, final norm and output head, under the published names."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.embedding_size, config.d_model),
                "blocks": nn.ModuleList(LLaDABlock(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
                "ff_out": nn.Linear(config.d_model, config.embedding_size, bias=False),
            }
        )


class LLaDAModelLM(PreTrainedModel):
    """The whole model. Published key names: `model.transformer.{wte, blocks.i.*, ln_f, ff_out}.weight`."""

    config_class = LLaDAConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["LLaDABlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    shift: ClassVar[int] = 0
    """How many positions before a token it is predicted."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__(config)
        self.model = LLaDAModel(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.transformer["wte"]

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.transformer["wte"] = value

    def get_output_embeddings(self) -> nn.Module:
        return self.model.transformer["ff_out"]

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

        `hidden_states` holds what enters the output head at these positions; without `has_logits` that is all.

        Positions count from each row's first visible token, so padding on the left changes nothing. Every row needs at
        least one visible token.
        """
        hidden = self.states(input_ids, attention_mask, logits_at, window)
        return MaskedLMOutput(
            logits=self.model.transformer["ff_out"](hidden) if has_logits else None, hidden_states=(hidden,)
        )

    def states(
        self,
        input_ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None = None,
        at: Bool[Tensor, "B N"] | None = None,
        window: Window | None = None,
    ) -> Float[Tensor, "..."]:
        """Return the hidden states that enter the output head: [B, N, D], or [M, D] at the M positions of `at`."""
        parts = self.model.transformer
        head_dim = self.config.d_model // self.config.n_heads
        h, context, outputs = prepare_inputs(
            self.config, parts["wte"], input_ids, attention_mask, head_dim, at, self.shift, window
        )
        h = run_blocks(cast(nn.ModuleList, parts["blocks"]), h, context, self.gradient_checkpointing, outputs)
        return select_positions(parts["ln_f"](h), at) if outputs is None else parts["ln_f"](h[outputs.is_output])


LLADA = Family(
    name="LLaDA",
    config=LLaDAConfig,
    model=LLaDAModelLM,
    mask_id=126336,
    turn_end="<|eot_id|>",
    required=("d_model", "n_layers", "n_heads", "mlp_hidden_size", "vocab_size", "rope_theta", "rms_norm_eps"),
    layers="n_layers",
    sizes=("d_model", "n_heads", "mlp_hidden_size", "vocab_size"),
    optional_sizes=("n_kv_heads", "embedding_size", "max_sequence_length"),
    fixed=PUBLISHED_CODE | {"multi_query_attention": False, "clip_qkv": None, "rope_scaling": None},
)
