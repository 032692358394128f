"""LLaDA and Dream a second time, from their descriptions: one sequence, head by head, in float64, no padding."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def llada_logits(weights: Mapping[str, Tensor], config: Mapping[str, Any], ids: list[int]) -> Tensor:
    """[N, V]: row k is the distribution of token k."""
    heads, kv_heads = config["n_heads"], config["n_kv_heads"]
    head_dim = config["d_model"] // heads

    def weight(name: str) -> Tensor:
        return weights[f"model.transformer.{name}.weight"].double()

    h = weight("wte")[ids]
    for layer in range(config["n_layers"]):
        block = f"blocks.{layer}"
        n = norm(h, weight(f"{block}.attn_norm"), config["rms_norm_eps"])
        mixed = []
        for head in range(heads):
            kv = head // (heads // kv_heads)
            q = rope(n @ rows(weight(f"{block}.q_proj"), head, head_dim).T, config["rope_theta"])
            k = rope(n @ rows(weight(f"{block}.k_proj"), kv, head_dim).T, config["rope_theta"])
            v = n @ rows(weight(f"{block}.v_proj"), kv, head_dim).T
            mixed.append((q @ k.T / math.sqrt(head_dim)).softmax(dim=-1) @ v)
        h = h + torch.cat(mixed, dim=-1) @ weight(f"{block}.attn_out").T
        n = norm(h, weight(f"{block}.ff_norm"), config["rms_norm_eps"])
        gate = n @ weight(f"{block}.ff_proj").T
        h = h + (gate * gate.sigmoid() * (n @ weight(f"{block}.up_proj").T)) @ weight(f"{block}.ff_out").T
    return norm(h, weight("ln_f"), config["rms_norm_eps"]) @ weight("ff_out").T


def dream_logits(weights: Mapping[str, Tensor], config: Mapping[str, Any], ids: list[int]) -> Tensor:
    """[N, V]: row k is the distribution of token k, read at k - 1; that of token 0 is read at 0."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config["hidden_size"] // heads
    w = {name: value.double() for name, value in weights.items()}
    h = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        n = norm(h, w[f"{block}.input_layernorm.weight"], config["rms_norm_eps"])

        def projected(name: str, head: int, n: Tensor = n, block: str = block) -> Tensor:
            matrix, bias = (w[f"{block}.self_attn.{name}_proj.{part}"] for part in ("weight", "bias"))
            return n @ rows(matrix, head, head_dim).T + rows(bias, head, head_dim)

        mixed = []
        for head in range(heads):
            kv = head // (heads // kv_heads)
            q, k = rope(projected("q", head), config["rope_theta"]), rope(projected("k", kv), config["rope_theta"])
            mixed.append((q @ k.T / math.sqrt(head_dim)).softmax(dim=-1) @ projected("v", kv))
        h = h + torch.cat(mixed, dim=-1) @ w[f"{block}.self_attn.o_proj.weight"].T
        n = norm(h, w[f"{block}.post_attention_layernorm.weight"], config["rms_norm_eps"])
        gate = n @ w[f"{block}.mlp.gate_proj.weight"].T
        up = n @ w[f"{block}.mlp.up_proj.weight"].T
        h = h + (gate / (1 + (-gate).exp()) * up) @ w[f"{block}.mlp.down_proj.weight"].T
    logits = norm(h, w["model.norm.weight"], config["rms_norm_eps"]) @ w["lm_head.weight"].T
    return logits[[max(position - 1, 0) for position in range(len(ids))]]


def norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    return x / ((x**2).mean(dim=-1, keepdim=True) + eps).sqrt() * scale


def rope(x: Tensor, theta: float) -> Tensor:
    """Pair i of position p, that is dimensions i and i + half, turned by p / theta^(2 i / head_dim)."""
    half = x.shape[1] // 2
    turned = torch.empty_like(x)
    for position in range(len(x)):
        for i in range(half):
            angle = position / theta ** (2 * i / x.shape[1])
            a, b = x[position, i], x[position, i + half]
            turned[position, i] = a * math.cos(angle) - b * math.sin(angle)
            turned[position, i + half] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def rows(matrix: Tensor, head: int, head_dim: int) -> Tensor:
    return matrix[head * head_dim : (head + 1) * head_dim]
