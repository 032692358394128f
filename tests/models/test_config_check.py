"""A config.json from a stranger: odd values are a sentence, and no kernel is taken from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.published import DREAM, PUBLISHED, Published, write_folder

from diffpo.core.errors import UserError
from diffpo.models.config_check import without_kernels
from diffpo.models.loading import load_denoiser, read_config

FAMILIES = pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
ODD = [True, "4", [1], {"a": 1}, -1, 10**30, float("nan")]
KERNELS = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal", "_experts_implementation")


def changed(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@FAMILIES
def test_no_kernel_is_chosen_by_a_config(published: Published, tmp_path: Path) -> None:
    """Transformers would fetch and run the code of that repository."""
    assert without_kernels({"d_model": 4} | dict.fromkeys(KERNELS, "x")) == {"d_model": 4}
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
        ("eos_token_id", ["a"], "eos_token_id is \\['a'\\]; it should be the number of a token"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(field: str, value: object, told: str, tmp_path: Path) -> None:
    write_folder(tmp_path, DREAM)
    changed(tmp_path, **{field: value})
    with pytest.raises(UserError, match=told):
        read_config(tmp_path)
