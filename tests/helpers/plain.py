"""LLaDA and Dream a second time, from their descriptions: one sequence, head by head, in float64, no padding."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Frozen = dict[tuple[int, int], tuple[Tensor, Tensor]]
"""Keys and values of each layer and head at all N places."""


def llada_logits(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    ids: list[int],
    frozen: Frozen | None = None,
    places: Sequence[int] | None = None,
) -> Tensor:
    """[N, V]: row k is the distribution of token k. A whole pass fills `frozen`; one of some places reads it for the
    others, whose rows are nan."""
    frozen, run = {} if frozen is None else frozen, list(range(len(ids)) if places is None else places)
    heads, kv_heads = config["n_heads"], config["n_kv_heads"]
    head_dim = config["d_model"] // heads

    def weight(name: str) -> Tensor:
        return weights[f"model.transformer.{name}.weight"].double()

    h = weight("wte")[ids][run]
    for layer in range(config["n_layers"]):
        block = f"blocks.{layer}"
        n = norm(h, weight(f"{block}.attn_norm"), config["rms_norm_eps"])
        mixed = []
        for head in range(heads):
            kv = head // (heads // kv_heads)
            q = rope(n @ rows(weight(f"{block}.q_proj"), head, head_dim).T, config["rope_theta"], run)
            k = rope(n @ rows(weight(f"{block}.k_proj"), kv, head_dim).T, config["rope_theta"], run)
            v = n @ rows(weight(f"{block}.v_proj"), kv, head_dim).T
            k, v = among(frozen, (layer, head), k, v, places)
            mixed.append((q @ k.T / math.sqrt(head_dim)).softmax(dim=-1) @ v)
        h = h + torch.cat(mixed, dim=-1) @ weight(f"{block}.attn_out").T
        n = norm(h, weight(f"{block}.ff_norm"), config["rms_norm_eps"])
        gate = n @ weight(f"{block}.ff_proj").T
        h = h + (gate * gate.sigmoid() * (n @ weight(f"{block}.up_proj").T)) @ weight(f"{block}.ff_out").T
    return spread(norm(h, weight("ln_f"), config["rms_norm_eps"]) @ weight("ff_out").T, run, len(ids))


def dream_logits(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    ids: list[int],
    frozen: Frozen | None = None,
    places: Sequence[int] | None = None,
) -> Tensor:
    """[N, V]: row k is the distribution of token k, read at k - 1; that of token 0 is read at 0. `frozen`: as above."""
    frozen, run = {} if frozen is None else frozen, list(range(len(ids)) if places is None else places)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config["hidden_size"] // heads
    w = {name: value.double() for name, value in weights.items()}
    h = w["model.embed_tokens.weight"][ids][run]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        n = norm(h, w[f"{block}.input_layernorm.weight"], config["rms_norm_eps"])

        def projected(name: str, head: int, n: Tensor = n, block: str = block) -> Tensor:
            matrix, bias = (w[f"{block}.self_attn.{name}_proj.{part}"] for part in ("weight", "bias"))
            return n @ rows(matrix, head, head_dim).T + rows(bias, head, head_dim)

        mixed = []
        for head in range(heads):
            kv = head // (heads // kv_heads)
            q, k = (rope(projected(*of), config["rope_theta"], run) for of in (("q", head), ("k", kv)))
            k, v = among(frozen, (layer, head), k, projected("v", kv), places)
            mixed.append((q @ k.T / math.sqrt(head_dim)).softmax(dim=-1) @ v)
        h = h + torch.cat(mixed, dim=-1) @ w[f"{block}.self_attn.o_proj.weight"].T
        n = norm(h, w[f"{block}.post_attention_layernorm.weight"], config["rms_norm_eps"])
        gate = n @ w[f"{block}.mlp.gate_proj.weight"].T
        up = n @ w[f"{block}.mlp.up_proj.weight"].T
        h = h + (gate / (1 + (-gate).exp()) * up) @ w[f"{block}.mlp.down_proj.weight"].T
    logits = spread(norm(h, w["model.norm.weight"], config["rms_norm_eps"]) @ w["lm_head.weight"].T, run, len(ids))
    return logits[[max(position - 1, 0) for position in range(len(ids))]]


def norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    return x / ((x**2).mean(dim=-1, keepdim=True) + eps).sqrt() * scale


def among(
    frozen: Frozen, key: tuple[int, int], k: Tensor, v: Tensor, places: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Keys and values of all places: the given ones, and where they are of some places, the frozen ones elsewhere."""
    if places is None:
        frozen[key] = k, v
        return k, v
    whole = [values.clone() for values in frozen[key]]
    for row, place in enumerate(places):
        whole[0][place], whole[1][place] = k[row], v[row]
    return whole[0], whole[1]


def spread(values: Tensor, places: Sequence[int], length: int) -> Tensor:
    whole = values.new_full((length, values.shape[1]), math.nan)
    whole[list(places)] = values
    return whole


def rope(x: Tensor, theta: float, positions: Sequence[int]) -> Tensor:
    """Pair i of position p, that is dimensions i and i + half, turned by p / theta^(2 i / head_dim)."""
    half = x.shape[1] // 2
    turned = torch.empty_like(x)
    for row, position in enumerate(positions):
        for i in range(half):
            angle = position / theta ** (2 * i / x.shape[1])
            a, b = x[row, i], x[row, i + half]
            turned[row, i] = a * math.cos(angle) - b * math.sin(angle)
            turned[row, i + half] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def rows(matrix: Tensor, head: int, head_dim: int) -> Tensor:
    return matrix[head * head_dim : (head + 1) * head_dim]
