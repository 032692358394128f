"""Values that no run could have, and files that are no TOML: a sentence that names the key, before anything is made."""

from pathlib import Path

import pytest

from diffpo.core.errors import UserError
from diffpo.recipes import Strict, load_recipe
from diffpo.recipes.tables import EvalRecipe, RlRecipe, SamplerRecipe, SftRecipe

HUGE = 10**30
MANY = f"[{', '.join(map(str, range(1, 100_001)))}]"


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        (SftRecipe, "model.d_model", 10**12),
        (SftRecipe, "model.n_layers", 10**6),
        (SftRecipe, "model.mlp_hidden_size", HUGE),
        (SftRecipe, "batch", 10**15),
        (SftRecipe, "steps", HUGE),
        (SftRecipe, "steps", -1),
        (SftRecipe, "steps", 0),
        (SftRecipe, "seed", HUGE),
        (SftRecipe, "seed", -HUGE),
        (SftRecipe, "threads", 100_000),
        (SftRecipe, "sequence_length", HUGE),
        (SftRecipe, "checkpoint.every", HUGE),
        (SftRecipe, "optimizer.lr", "inf"),
        (SftRecipe, "optimizer.lr", "nan"),
        (SftRecipe, "optimizer.lr", 10**400),
        (SftRecipe, "optimizer.warmup", HUGE),
        (SftRecipe, "task.min_clues", HUGE),
        (RlRecipe, "budget.denoiser_calls", HUGE),
        (RlRecipe, "rollout.group_size", HUGE),
        (RlRecipe, "rollout.max_in_flight", HUGE),
        (RlRecipe, "lora.rank", HUGE),
        (EvalRecipe, "count", HUGE),
        (EvalRecipe, "batch", HUGE),
        (EvalRecipe, "bounds", MANY),
        (SamplerRecipe, "risk_bounds", MANY),
        (SftRecipe, "batch", "0x" + "f" * 5000),
        (SftRecipe, "base", '"a\\u0000b"'),
        (SftRecipe, "base", "a\udcffb"),
    ],
)
def test_an_absurd_value_is_named_by_its_key(recipe: type[Strict], key: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe, None, [f"{key}={value}"])
    lines = [line for line in str(caught.value).splitlines() if f"  {key}: " in line or f"task: {key[5:]} " in line]
    assert len(lines) == 1 and len(lines[0]) < 10**6


def test_a_model_of_too_many_weights_is_refused() -> None:
    with pytest.raises(UserError, match=r"model: d_model, n_layers and mlp_hidden_size are .* weights, above 1e\+09"):
        load_recipe(SftRecipe, None, ["model.d_model=16384", "model.n_layers=100"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("batch = 1\n".encode("utf-16"), "is not UTF-8 from byte 0 on; save it as UTF-8"),
        (b"batch = " + b"[" * 100_000, "nested too deep"),
        (b".".join([b"a"] * 2_000) + b" = 1\n", "a: unknown option"),
        (b"[" + b".".join([b"batch"] * 2_000) + b"]\n", "nested too deep|batch"),
        (b"batch = " + b"9" * 5000, "is not valid TOML"),
        (b"batch = \x00", "is not valid TOML"),
        (b"seed = " + b"9" * 5000, "is not valid TOML: Exceeds the limit"),
        (b"seed = " + b"[" * 5000, "its tables or arrays are nested too deep"),
        (b"seed." + b"a." * 3000 + b"a = 1", "tables or arrays are nested too deep; write them flatter"),
    ],
)
def test_a_file_that_is_no_toml_is_a_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_recipe(SftRecipe, str(file))


def test_an_override_that_is_nested_too_deep_is_a_sentence() -> None:
    for override in (".".join(["a"] * 2_000) + "=1", "batch=" + "[" * 100_000, "batch=" + "{a=" * 100_000):
        with pytest.raises(UserError):
            load_recipe(SftRecipe, None, [override])


@pytest.mark.parametrize("override", ["seed=" + "9" * 5000, "seed=" + "[" * 5000, "seed." + "a." * 3000 + "a=1"])
def test_an_override_that_python_cannot_hold_names_its_key_or_its_depth(override: str) -> None:
    with pytest.raises(UserError, match=r"seed|too deep"):
        load_recipe(SftRecipe, None, [override])


def test_a_name_that_is_too_long_for_a_path_is_a_name() -> None:
    with pytest.raises(UserError, match="no recipe is called"):
        load_recipe(SftRecipe, "long" * 100)


def test_a_mark_at_the_beginning_of_a_file_and_lines_of_windows_are_read(tmp_path: Path) -> None:
    file = tmp_path / "windows.toml"
    file.write_bytes(b"\xef\xbb\xbfbatch = 7\r\nsteps = 3\r\n")
    recipe = load_recipe(SftRecipe, str(file))
    assert (recipe.batch, recipe.steps) == (7, 3)


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + ".toml", "x/" * 3000 + "y.toml", "a\0b.toml"])
def test_a_recipes_path_that_cannot_be_is_a_sentence(name: str) -> None:
    with pytest.raises(UserError):
        load_recipe(SftRecipe, name)


@pytest.mark.parametrize(
    "override", ["rollout.temperature=1e300", "controller.initial_bound=1e308", "optimizer.lr=1e30"]
)
def test_a_number_that_float32_cannot_use_is_named_by_its_key(override: str) -> None:
    with pytest.raises(UserError, match=rf"{override.partition('=')[0]}.* less than or equal to 1000000000000"):
        load_recipe(RlRecipe, None, ["base=x", "budget.steps=1", override])
