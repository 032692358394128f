"""What of a recipe may differ when a run goes on."""

from pathlib import Path

import pytest

from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.resumable import BUDGET, FREE, changes_on_resume
from diffpo.recipes.tables import RlRecipe, SftRecipe


def rl(*overrides: str) -> RlRecipe:
    return load_recipe(RlRecipe, None, ["base=x", "budget.steps=10", *overrides])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(rl()))
    return file


@pytest.mark.parametrize(
    "override",
    [
        *("threads=3", "device=cpu", "gradient_checkpointing=true", "compile=true", "base=elsewhere"),
        *("objective.micro_batch_size=2", "rollout.max_in_flight=4", "checkpoint.every=1", "checkpoint.keep=9"),
    ],
)
def test_what_changes_no_result_is_free(override: str, stored: Path) -> None:
    changes = changes_on_resume(stored, rl(override))
    assert list(changes.free) == [override.partition("=")[0]]
    assert not changes.raised and not changes.others


@pytest.mark.parametrize("override", ["seed=1", "optimizer.lr=0.5", "dtype=bfloat16", "rollout.group_size=4"])
def test_anything_else_is_not(override: str, stored: Path) -> None:
    assert list(changes_on_resume(stored, rl(override)).others) == [override.partition("=")[0]]


def test_a_budget_is_raised_or_made_another(stored: Path) -> None:
    raised = changes_on_resume(stored, rl("budget.steps=11"))
    assert raised.raised == {"budget.steps": ("10", "11")} and not raised.others
    assert changes_on_resume(stored, rl("budget.steps=9")).others == {"budget.steps": ("10", "9")}
    assert changes_on_resume(stored, rl("budget.denoiser_calls=99")).others == {"budget.denoiser_calls": (None, "99")}
    other = changes_on_resume(stored, rl("budget={denoiser_calls=99}"))
    assert other.others and other.raised == {"budget.steps": ("10", None)}


def test_every_key_is_one_of_a_recipe() -> None:
    def keys(kind: type, where: str = "") -> set[str]:
        found = set()
        for name, field in kind.model_fields.items():  # type: ignore[attr-defined]
            found.add(f"{where}{name}")
            if hasattr(field.annotation, "model_fields"):
                found |= keys(field.annotation, f"{where}{name}.")
        return found

    known = keys(SftRecipe) | keys(RlRecipe) | {"objective.micro_batch_size", "task.reward_seconds"}
    assert set(FREE) | set(BUDGET) <= known
