"""LLaDA against a second forward pass written from its description, and refusals of folders that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.oracle import tiny_llada
from tests.helpers.plain import llada_logits
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM

from diffpo.core.errors import UserError
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.layers import PACK_MIN_TOKENS
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.loading import load_denoiser, make_denoiser
from diffpo.models.tokenizer import char_tokenizer

VOCAB = 11
HEAD = "model.transformer.ff_out.weight"
SHAPES = {"full": {}, "grouped-query": {"n_kv_heads": 2}, "one-kv-head": {"n_kv_heads": 1, "rope_theta": 5e5}}


def model_of(**config: Any) -> LLaDAModelLM:
    model = tiny_llada(VOCAB, 0, **config).model
    assert isinstance(model, LLaDAModelLM)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_f" in name:  # ones would hide a norm that forgets its weight
                parameter.uniform_(0.5, 1.5)
    return model


def some_ids(rows: int = 3, length: int = 7) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_logits_are_those_of_the_description(shape: dict[str, float]) -> None:
    model, ids = model_of(**shape), some_ids()
    expected = torch.stack([llada_logits(model.state_dict(), model.config.to_dict(), row) for row in ids.tolist()])
    torch.testing.assert_close(model(ids).logits, expected.float(), atol=1e-5, rtol=1e-5)
    assert float(expected.std()) > 0.1


@torch.no_grad()
def test_every_position_sees_every_other() -> None:
    model, ids = model_of(), some_ids(1)
    before = model(ids).logits[0]
    for position in range(ids.shape[1]):
        changed = ids.clone()
        changed[0, position] = (ids[0, position] + 1) % VOCAB
        assert bool(((model(changed).logits[0] - before).abs().amax(dim=-1) > 1e-4).all())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_left_padding_changes_no_logit(shape: dict[str, float]) -> None:
    model, ids = model_of(**shape), some_ids()
    padding = torch.tensor([3, 0, 2])
    wide = torch.cat([torch.full((3, 3), 5), ids], dim=1)
    visible = torch.ones_like(wide, dtype=torch.bool)
    for row, amount in enumerate(padding.tolist()):
        wide[row] = torch.cat([torch.full((amount,), 5), ids[row], torch.full((3 - amount,), 6)])
        visible[row, :amount] = False
    found = model(wide, attention_mask=visible).logits
    for row, amount in enumerate(padding.tolist()):
        alone = model(wide[row : row + 1, amount:]).logits[0]
        torch.testing.assert_close(found[row, amount:], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_mask_that_hides_nothing_changes_nothing() -> None:
    model, ids = model_of(), some_ids()
    assert torch.equal(model(ids, attention_mask=torch.ones_like(ids)).logits, model(ids).logits)


@torch.no_grad()
def test_logits_at_selects_the_same_rows_in_order() -> None:
    model, ids = model_of(), some_ids()
    at = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    torch.testing.assert_close(model(ids, logits_at=at).logits, model(ids).logits[at], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("length", [50, PACK_MIN_TOKENS + 7])
@pytest.mark.parametrize("padding", [[0, 0, 0], [40, 0, 3], [5, 5, 5]])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_not_computed_changes_no_logit_and_no_gradient(
    shape: dict[str, float], padding: list[int], length: int
) -> None:
    model, ids = model_of(**shape), some_ids(3, length)
    visible = torch.arange(ids.shape[1]) >= torch.tensor(padding)[:, None]
    at = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.2) & visible
    at[1] = False  # a row without outputs
    found = model(ids, attention_mask=visible, logits_at=at).logits
    expected = [
        llada_logits(model.state_dict(), model.config.to_dict(), row[seen].tolist())[wanted[seen]]
        for row, seen, wanted in zip(ids, visible, at, strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(expected).float(), atol=1e-4, rtol=1e-4)

    def gradients(logits: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(logits.log_softmax(dim=-1)[:, 3].sum(), list(model.parameters())))

    whole = model(ids, attention_mask=visible).logits[at]
    for of_part, of_whole in zip(gradients(found), gradients(whole), strict=True):
        torch.testing.assert_close(of_part, of_whole, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_no_positions_give_no_rows() -> None:
    ids = some_ids(2, 10)
    assert model_of()(ids, logits_at=torch.zeros_like(ids, dtype=torch.bool)).logits.shape == (0, VOCAB)


@pytest.mark.parametrize(("length", "packed"), [(PACK_MIN_TOKENS, 2 * PACK_MIN_TOKENS - 28), (60, 2 * 60)])
@torch.no_grad()
def test_the_last_block_computes_only_outputs_and_long_canvases_no_padding(length: int, packed: int) -> None:
    model, ids = model_of(), some_ids(2, length)
    visible = torch.arange(length) >= torch.tensor([28, 0])[:, None]
    at = torch.zeros_like(visible)
    at[0, -3:], at[1, -1] = True, True
    seen: list[int] = []
    for block in cast(nn.ModuleList, model.model.transformer["blocks"]):
        cast(nn.Module, block.ff_proj).register_forward_hook(
            lambda _, inputs, __: seen.append(inputs[0][..., 0].numel())
        )
    model(ids, attention_mask=visible, logits_at=at)
    assert seen == [packed, 4 if packed < 2 * length else 2 * 3]


@torch.no_grad()
def test_the_denoiser_rules_out_the_mask_and_nothing_else() -> None:
    model, ids = model_of(), some_ids()
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    logits = ModelDenoiser(model, mask_id=4, stop_ids=()).predict(ids, everywhere, everywhere).logits
    assert logits.dtype == torch.float32
    assert not logits.softmax(dim=-1)[:, 4].any()
    assert bool(logits.isfinite().all())
    others = torch.arange(VOCAB) != 4
    assert torch.equal(logits[:, others], model(ids).logits.view(-1, VOCAB)[:, others])


# --------------------------------------------------------------------------------------------------- names and folders


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_weights_have_the_published_names_and_shapes(kv_heads: int) -> None:
    block = {
        "attn_norm": (32,),
        "ff_norm": (32,),
        "q_proj": (32, 32),
        "k_proj": (8 * kv_heads, 32),
        "v_proj": (8 * kv_heads, 32),
        "attn_out": (32, 32),
        "ff_proj": (48, 32),
        "up_proj": (48, 32),
        "ff_out": (32, 48),
    }
    expected = {f"model.transformer.blocks.{i}.{name}.weight": shape for i in range(2) for name, shape in block.items()}
    expected |= {
        "model.transformer.wte.weight": (VOCAB, 32),
        "model.transformer.ln_f.weight": (32,),
        "model.transformer.ff_out.weight": (VOCAB, 32),
    }
    state = model_of(n_kv_heads=kv_heads).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


def test_the_published_8b_config_gives_the_published_size() -> None:
    config = LLaDAConfig(
        d_model=4096,
        n_layers=32,
        n_heads=32,
        n_kv_heads=32,
        mlp_hidden_size=12288,
        vocab_size=126464,
        embedding_size=126464,
        mask_token_id=126336,
    )
    with torch.device("meta"):
        model = LLaDAModelLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_015_581_184


def test_embedding_and_head_are_not_tied() -> None:
    model = model_of()
    state = model.state_dict()
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    assert not torch.equal(state["model.transformer.wte.weight"], state[HEAD])


def test_unknown_published_config_fields_are_kept(tmp_path: Path) -> None:
    LLaDAConfig(block_type="llama", layer_norm_type="rms").save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["model_type"], saved["block_type"], saved["layer_norm_type"]) == ("llada", "llama", "rms")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = char_tokenizer("12345678")
    model = model_of()
    model.config.mask_token_id = tokenizer.mask_token_id
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_saved_and_loaded_is_bit_equal(folder: Path) -> None:
    model, ids = model_of(), some_ids()
    denoiser, tokenizer = load_denoiser(folder)
    loaded = denoiser.model.state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    assert torch.equal(denoiser.model(ids).logits, model(ids).logits)
    assert (denoiser.mask_id, denoiser.stop_ids) == (tokenizer.mask_token_id, (tokenizer.eos_token_id,))
    assert not denoiser.model.training


def test_the_auto_classes_know_it(folder: Path) -> None:
    assert isinstance(AutoConfig.from_pretrained(folder), LLaDAConfig)
    assert isinstance(AutoModelForMaskedLM.from_pretrained(folder), LLaDAModelLM)


def test_wrapping_turns_evaluation_mode_on() -> None:
    model, tokenizer = model_of().train(), char_tokenizer("12345678")
    model.config.mask_token_id = tokenizer.mask_token_id
    denoiser = make_denoiser(model, tokenizer)
    assert not denoiser.model.training
    assert denoiser.vocabulary is None  # every row of the embedding is a token


def without(weights: dict[str, Tensor]) -> None:
    del weights["model.transformer.blocks.1.k_proj.weight"]


def with_extra(weights: dict[str, Tensor]) -> None:
    weights["model.transformer.blocks.2.k_proj.weight"] = torch.zeros(32, 32)


def misshapen(weights: dict[str, Tensor]) -> None:
    weights["model.transformer.blocks.1.up_proj.weight"] = torch.zeros(32, 32)


def without_head(weights: dict[str, Tensor]) -> None:
    del weights[HEAD]


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (without, "blocks.1.k_proj.weight"),
        (with_extra, "blocks.2.k_proj.weight"),
        (misshapen, "blocks.1.up_proj.weight"),
        (without_head, HEAD),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    spoil: Callable[[dict[str, Tensor]], None], name: str, folder: Path
) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    spoil(weights)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        load_denoiser(folder)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ('{"model_type": "llama"}', "a model of type 'llama', and diffpo knows 'llada'"),
        ("{}", "a model of type None"),
        ("[]", "a model of type None"),
        ("not json", "cannot be read"),
    ],
)
def test_foreign_folders_are_refused(config: str, complaint: str, folder: Path) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(UserError, match=complaint):
        load_denoiser(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        load_denoiser(tmp_path / "nowhere")


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_denoiser(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_denoiser(folder)


def test_a_config_says_what_the_published_code_asks_for(tmp_path: Path) -> None:
    """Without these fields it builds another architecture, which the weights do not fit."""
    LLaDAConfig(d_model=16, n_heads=2).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    asked = {
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "rope": True,
        "weight_tying": False,
    }
    assert {field: written.get(field) for field in asked} == asked
    assert LLaDAConfig(block_type="sequential").block_type == "sequential", "what a config says is kept, and refused"
