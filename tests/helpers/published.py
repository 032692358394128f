"""Folders in the published formats of LLaDA and Dream, written by hand: their names, fields and files, but small."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from diffpo.models.dream import DreamConfig, DreamModel
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from tests.helpers.plain import dream_logits, llada_logits

ROWS = 320
"""Of the embeddings. The tokenizers have fewer tokens: 256 bytes and some special ones."""
CANARY = "from pathlib import Path\nPath(__file__).with_name('canary').touch()\n"


@dataclass(frozen=True)
class Published:
    config_class: type[PretrainedConfig]
    model_class: type[PreTrainedModel]
    config: dict[str, Any]
    block: dict[str, tuple[int, ...]]
    """Names and shapes of one block's weights, {} being its index."""
    ends: dict[str, tuple[int, ...]]
    """Those outside of the blocks."""
    specials: tuple[str, ...]
    """From id 256 on."""
    mask: str
    end: str
    turn_end: str
    logits: Callable[..., Tensor]
    """Those of `tests/plain.py`."""

    def id(self, token: str) -> int:
        return 256 + self.specials.index(token)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        blocks = [{name.format(i): shape for name, shape in self.block.items()} for i in range(2)]
        return blocks[0] | blocks[1] | self.ends


LLADA = Published(
    config_class=LLaDAConfig,
    model_class=LLaDAModelLM,
    config={
        "activation_type": "silu",
        "alibi": False,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
            "AutoModelForMaskedLM": "modeling_llada.LLaDAModelLM",
        },
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": 32,
        "embedding_size": ROWS,
        "eos_token_id": 257,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": 260,
        "max_sequence_length": 4096,
        "mlp_hidden_size": 48,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 2,
        "pad_token_id": 257,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.3",
        "use_cache": False,
        "vocab_size": ROWS,
        "weight_tying": False,
    },
    block={
        "model.transformer.blocks.{}.attn_norm.weight": (32,),
        "model.transformer.blocks.{}.ff_norm.weight": (32,),
        "model.transformer.blocks.{}.q_proj.weight": (32, 32),
        "model.transformer.blocks.{}.k_proj.weight": (32, 32),
        "model.transformer.blocks.{}.v_proj.weight": (32, 32),
        "model.transformer.blocks.{}.attn_out.weight": (32, 32),
        "model.transformer.blocks.{}.ff_proj.weight": (48, 32),
        "model.transformer.blocks.{}.up_proj.weight": (48, 32),
        "model.transformer.blocks.{}.ff_out.weight": (32, 48),
    },
    ends={
        "model.transformer.wte.weight": (ROWS, 32),
        "model.transformer.ln_f.weight": (32,),
        "model.transformer.ff_out.weight": (ROWS, 32),
    },
    specials=(
        "<|startoftext|>",
        "<|endoftext|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|mdm_mask|>",
        "<|eot_id|>",
    ),
    mask="<|mdm_mask|>",
    end="<|endoftext|>",
    turn_end="<|eot_id|>",
    logits=llada_logits,
)

DREAM = Published(
    config_class=DreamConfig,
    model_class=DreamModel,
    config={
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
            "AutoModelForMaskedLM": "modeling_dream.DreamModel",
        },
        "bos_token_id": 256,
        "eos_token_id": 256,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "mask_token_id": 260,
        "max_position_embeddings": 131072,
        "max_window_layers": 2,
        "model_type": "Dream",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 256,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.2",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": ROWS,
    },
    block={
        "model.layers.{}.input_layernorm.weight": (32,),
        "model.layers.{}.post_attention_layernorm.weight": (32,),
        "model.layers.{}.self_attn.q_proj.weight": (32, 32),
        "model.layers.{}.self_attn.q_proj.bias": (32,),
        "model.layers.{}.self_attn.k_proj.weight": (16, 32),
        "model.layers.{}.self_attn.k_proj.bias": (16,),
        "model.layers.{}.self_attn.v_proj.weight": (16, 32),
        "model.layers.{}.self_attn.v_proj.bias": (16,),
        "model.layers.{}.self_attn.o_proj.weight": (32, 32),
        "model.layers.{}.mlp.gate_proj.weight": (48, 32),
        "model.layers.{}.mlp.up_proj.weight": (48, 32),
        "model.layers.{}.mlp.down_proj.weight": (32, 48),
    },
    ends={
        "model.embed_tokens.weight": (ROWS, 32),
        "model.norm.weight": (32,),
        "lm_head.weight": (ROWS, 32),
    },
    specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"),
    mask="<|mask|>",
    end="<|endoftext|>",
    turn_end="<|im_end|>",
    logits=dream_logits,
)

PUBLISHED = {"LLaDA": LLADA, "Dream": DREAM}


def random_weights(published: Published) -> dict[str, Tensor]:
    """Far from a fresh model's: no bias is 0, no norm is 1, so that one which is forgotten is missed."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in published.shapes().items()}
    for name, value in weights.items():
        if "norm" in name or "ln_f" in name:
            value.abs_().add_(0.5)
        elif "embed" in name or "wte" in name:
            value.mul_(3)
    return weights


def write_folder(folder: Path, published: Published, num_shards: int = 1) -> dict[str, Tensor]:
    """Config, weights, tokenizer and the Python that nobody may run; the weights are returned."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(published)
    write_weights(folder, weights, num_shards)
    write_config(folder, published.config)
    stem = published.config["model_type"].lower()
    for name in (f"configuration_{stem}.py", f"modeling_{stem}.py", f"tokenization_{stem}.py"):
        (folder / name).write_text(CANARY)
    if published is DREAM:
        write_qwen_tokenizer(folder)
    else:
        write_fast_tokenizer(folder, published)
    return weights


def write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def write_weights(folder: Path, weights: dict[str, Tensor], num_shards: int = 1) -> None:
    """In one file, or in shards with an index, as `transformers` names them."""
    if num_shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    files = [f"model-{1 + i:05d}-of-{num_shards:05d}.safetensors" for i in range(num_shards)]
    place = {name: files[i % num_shards] for i, name in enumerate(sorted(weights))}
    for file in files:
        save_file({name: weights[name] for name in place if place[name] == file}, folder / file)
    size = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def byte_vocabulary() -> dict[str, int]:
    return {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def write_fast_tokenizer(folder: Path, published: Published, is_mask_special: bool = True) -> None:
    """tokenizer.json, as LLaDA's: its mask is a special token, but the tokenizer's `mask_token` is not set."""
    tokenizer = Tokenizer(BPE(byte_vocabulary(), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for token in published.specials:
        is_special = token != published.mask or is_mask_special
        (tokenizer.add_special_tokens if is_special else tokenizer.add_tokens)([AddedToken(token, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": published.end, "pad_token": published.end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_qwen_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt, and a class that only the repository's Python has, as Dream's."""
    (folder / "vocab.json").write_text(json.dumps(byte_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {str(DREAM.id(text)): token | {"content": text} for text in DREAM.specials},
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
