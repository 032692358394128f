"""A config.json from a stranger: odd values are a sentence, and no kernel is taken from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.published import DREAM, LLADA, PUBLISHED, Published, write_folder

from diffpo.core.errors import UserError
from diffpo.models.config_check import used_fields, wrong_id
from diffpo.models.loading import load_denoiser, read_config, save_denoiser
from diffpo.models.tokenizer import encode_text

FAMILIES = pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
ODD = [True, "4", [1], {"a": 1}, -1, 10**30, float("nan")]
KERNELS = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal", "_experts_implementation")


def changed(folder: Path, **fields: Any) -> None:
    change(folder / "config.json", fields)


def change(file: Path, fields: dict[str, Any]) -> None:
    config = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(config | fields))


@FAMILIES
def test_no_kernel_is_chosen_by_a_config(published: Published, tmp_path: Path) -> None:
    """Transformers would fetch and run the code of that repository."""
    assert used_fields({"d_model": 4} | dict.fromkeys(KERNELS, "x")) == {"d_model": 4}
    write_folder(tmp_path, published)
    changed(tmp_path, **dict.fromkeys(KERNELS, "stranger/kernel"))
    denoiser, _ = load_denoiser(tmp_path)
    assert denoiser.model.config._attn_implementation == "sdpa"
    assert "stranger" not in str(denoiser.model.config)


@FAMILIES
def test_odd_fields_of_a_config_are_a_sentence(published: Published, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    kept = (tmp_path / "config.json").read_text()
    others = ["rope_parameters", "architectures", "eos_token_id", "dtype", "quantization_config", "id2label"]
    for name in [*published.config, *others]:
        for value in ODD:
            changed(tmp_path, **{name: value})
            try:
                family, config = read_config(tmp_path)
                with torch.device("meta"):
                    family.model(config)
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 500
            (tmp_path / "config.json").write_text(kept)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("num_hidden_layers", "2", "num_hidden_layers is '2'; it should be a whole number from 1 to 1000"),
        ("num_hidden_layers", 10**6, "it should be a whole number from 1 to 1000"),
        ("hidden_size", True, "hidden_size is True; it should be a whole number"),
        ("rope_theta", "x", "rope_theta is 'x'; it should be a number"),
        ("mask_token_id", [3], "mask_token_id is \\[3\\]; it should be the number of a token"),
        ("eos_token_id", [None], "eos_token_id is \\[None\\]; it should be the number of a token"),
        ("eos_token_id", ["a"], "eos_token_id is \\['a'\\]; it should be the number of a token"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(field: str, value: object, told: str, tmp_path: Path) -> None:
    write_folder(tmp_path, DREAM)
    changed(tmp_path, **{field: value})
    with pytest.raises(UserError, match=told):
        read_config(tmp_path)


@FAMILIES
def test_labels_and_outputs_that_a_denoiser_lacks_are_left_out_of_its_config(
    published: Published, tmp_path: Path
) -> None:
    """Of a billion labels transformers made a dictionary; a model that is to return attentions could not be saved."""
    write_folder(tmp_path / "odd", published)
    changed(tmp_path / "odd", num_labels=10**6, id2label={"0": "x"}, output_attentions=True, output_hidden_states="x")
    denoiser, tokenizer = load_denoiser(tmp_path / "odd")
    assert len(denoiser.model.config.id2label) == 2  # the default
    save_denoiser(denoiser, tokenizer, tmp_path / "saved")
    load_denoiser(tmp_path / "saved")


def test_a_list_of_ends_of_text_holds_ids_alone() -> None:
    assert wrong_id("eos_token_id", [1, 2]) is wrong_id("eos_token_id", []) is wrong_id("eos_token_id", None) is None
    assert wrong_id("eos_token_id", [1, 1.5]) == "eos_token_id is [1, 1.5]; it should be the number of a token"
    assert wrong_id("mask_token_id", [1]) == "mask_token_id is [1]; it should be the number of a token"


@FAMILIES
@pytest.mark.parametrize(
    "value", ["x", "4", True, 1.5, float("nan"), [[1]], [257, 1.5], [None], {"a": 1}, 10**30], ids=str
)
def test_odd_ends_of_text_are_a_sentence(value: object, published: Published, tmp_path: Path) -> None:
    write_folder(tmp_path, published)
    change(tmp_path / "generation_config.json", {"eos_token_id": value})
    with pytest.raises(UserError, match=r"generation_config\.json does not say where completions end: eos_token_id is"):
        load_denoiser(tmp_path)


@FAMILIES
@pytest.mark.parametrize("field", ["model_max_length", "padding_side", "added_tokens_decoder", "bos_token", "errors"])
@pytest.mark.parametrize("value", ODD, ids=str)
def test_an_odd_field_of_a_tokenizer_is_a_sentence_or_harmless(
    value: object, field: str, published: Published, tmp_path: Path
) -> None:
    write_folder(tmp_path, published)
    change(tmp_path / "tokenizer_config.json", {field: value})
    try:
        _, tokenizer = load_denoiser(tmp_path)
        text = tokenizer.decode(encode_text(tokenizer, "How many?"))
    except Exception as error:  # noqa: BLE001 - a class of another library is what must not come
        assert isinstance(error, UserError) and "\n" not in str(error) and len(str(error)) < 500
    else:
        assert text == "How many?"


@pytest.mark.parametrize("field", ["activation_type", "model_type", "architectures", "torch_dtype"])
def test_a_long_value_is_cut_in_the_sentence(field: str, tmp_path: Path) -> None:
    write_folder(tmp_path, LLADA)
    changed(tmp_path, **{field: "x" * 10_000})
    with pytest.raises(UserError) as told:
        load_denoiser(tmp_path)
    assert len(str(told.value)) < 500 + len(str(tmp_path))
