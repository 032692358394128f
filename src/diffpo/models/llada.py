"""LLaDA (arXiv 2502.09992): a bidirectional pre-norm Llama that predicts every masked token at once.

Config fields and parameter names are those of the published checkpoints, so LLaDA-8B is only another config.
Logits are not shifted: position k predicts token k.
"""

from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


class LLaDAConfig(PretrainedConfig):
    """The defaults are the tiny model (0.8M parameters); every published field that is not here is kept as it came."""

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
        mask_token_id: int = 0,
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
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


Rotation = tuple[Float[Tensor, "*#B N h"], Float[Tensor, "*#B N h"]]


def rotary_angles(position: Int[Tensor, "*B N"], head_dim: int, theta: float) -> Rotation:
    """What RoPE multiplies each position's head with, and its head with the halves swapped: cos and -+sin, in float32.

    Half-split rotation: (first, second) becomes (first cos - second sin, second cos + first sin).
    """
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=position.device).float() / head_dim)
    angle = position[..., None].float() * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Float[Tensor, "B H N h"], rotation: Rotation) -> Float[Tensor, "B H N h"]:
    own, other = (part.unsqueeze(-3) for part in rotation)
    first, second = x.float().chunk(2, dim=-1)
    return torch.addcmul(x * own, torch.cat([second, first], dim=-1), other).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return self.weight * F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype)


class LLaDABlock(nn.Module):
    """h += attention(norm h); h += ff_out(silu(ff_proj n) * up_proj n) with n = norm h."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = config.d_model // config.n_heads
        kv_size = self.n_kv_heads * self.head_dim
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
        self, h: Float[Tensor, "B N D"], rotation: Rotation, visible: Bool[Tensor, "B 1 1 N"] | None
    ) -> Float[Tensor, "B N D"]:
        batch, length, _ = h.shape
        n = self.attn_norm(h)
        q = self.q_proj(n).view(batch, length, self.n_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(n).view(batch, length, self.n_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(n).view(batch, length, self.n_kv_heads, self.head_dim).transpose(1, 2)
        attended = F.scaled_dot_product_attention(
            rotate(q, rotation),
            rotate(k, rotation),
            v,
            attn_mask=visible,
            enable_gqa=self.n_kv_heads != self.n_heads,
        )
        h = h + self.attn_out(attended.transpose(1, 2).reshape(batch, length, -1))
        n = self.ff_norm(h)
        return h + cast(Tensor, self.ff_out(F.silu(self.ff_proj(n)) * self.up_proj(n)))


class LLaDAModel(nn.Module):
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
    """Published key names: `model.transformer.{wte, blocks.i.*, ln_f, ff_out}.weight`."""

    config_class = LLaDAConfig
    base_model_prefix = "model"
    _no_split_modules: ClassVar[list[str]] = ["LLaDABlock"]
    _supports_sdpa = True

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__(config)
        self.model = LLaDAModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.transformer["wte"]

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.transformer["wte"] = value

    def get_output_embeddings(self) -> nn.Module:
        return self.model.transformer["ff_out"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

    def forward(
        self,
        input_ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None = None,
        logits_at: Bool[Tensor, "B N"] | None = None,
        **_: Any,
    ) -> MaskedLMOutput:
        """Logits [B, N, V], or [M, V] at the M positions where `logits_at` is True, in row-major order.

        Positions count from each row's first visible token, so padding on the left changes nothing. Padding must not
        be everything: a row needs at least one visible token.
        """
        parts = self.model.transformer
        visible = None
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        if attention_mask is not None and not bool(attention_mask.all()):
            visible = attention_mask.bool()[:, None, None, :]
            position = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        rotation = rotary_angles(position, self.config.d_model // self.config.n_heads, self.config.rope_theta)
        h = parts["wte"](input_ids)
        for block in cast(nn.ModuleList, parts["blocks"]):
            h = block(h, rotation, visible)
        h = parts["ln_f"](h)
        if logits_at is not None:
            h = h[logits_at]
        return MaskedLMOutput(logits=parts["ff_out"](h))
