"""Logits that are no numbers end a command in one sentence, and no rule waits for ever."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from diffpo.cli.main import main
from diffpo.core.errors import NonFiniteLogitsError
from diffpo.models.manifest import write_manifest
from diffpo.models.model_paths import model_folder
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import SftRecipe
from diffpo.sampling.rules import (
    CappedSum,
    ConfidenceThreshold,
    EntropyBound,
    Leftmost,
    LowConfidence,
    Margin,
    Rule,
    TopK,
)
from diffpo.training.sft import run_sft

RULES: list[Rule] = [
    EntropyBound(0.0),
    EntropyBound(math.inf),
    EntropyBound(0.1, subtract_max=False),
    CappedSum(0.3, 0.1),
    ConfidenceThreshold(0.9),
    Margin(0.8),
    Leftmost(1),
    TopK(2),
    LowConfidence(1),
]
SMALL = ["threads=1", "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.mlp_hidden_size=16"]
numbers = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 0.3, 1e30, -1.0, 3.4e38])


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=6), st.sampled_from(RULES))
def test_every_rule_commits_a_candidate_whatever_the_scores(row: list[tuple[float, bool]], rule: Rule) -> None:
    score = torch.tensor([[value for value, _ in row]])
    is_candidate = torch.tensor([[candidate for _, candidate in row]])
    chosen = rule.select(score, is_candidate)
    assert not bool((chosen & ~is_candidate).any())
    assert bool(chosen.any()) == bool(is_candidate.any())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    out = tmp_path / "base"
    run_sft(load_recipe(SftRecipe, None, [*SMALL, "steps=1", "batch=4"]), out)
    file = model_folder(out) / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "ff_out" in name)
    save_file(weights | {name: torch.full_like(weights[name], math.nan)}, file, metadata={"format": "pt"})
    write_manifest(model_folder(out))
    return out


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "{base}", "--prompt", "1" * 16],
        ["sample", "{base}", "--prompt", "1" * 16, "--temperature", "1"],
        ["eval", "{base}", "count=3", "validation_count=0"],
        ["eval", "{base}", "count=3", "validation_count=0", "bounds=[]", "rules=[{kind='top-k', k=2}]"],
        ["rl", "tiny-d1", "base={base}", "budget={steps=1}", "--out", "{base}-rl"],
    ],
    ids=["sample", "sample at 1", "eval", "eval top-k", "rl"],
)
def test_a_command_ends_in_one_sentence(command: list[str], broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([word.replace("{base}", str(broken)) for word in command])
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "the model's logits are not finite numbers at" in line and "try dtype=float32" in line


def test_it_is_found_at_every_temperature() -> None:
    from diffpo.models.denoiser_output import Logits
    from diffpo.sampling.categorical import draw_and_score

    for bad, size in itertools.product((math.nan, math.inf), (5, 700)):  # one segment of the vocabulary, and several
        for temperature in (0.0, 0.5, 1.0):
            logits = torch.zeros(3, size)
            logits[1, 2] = bad
            with pytest.raises(NonFiniteLogitsError, match="at 1 of 3 positions"):
                draw_and_score(
                    Logits(logits), torch.arange(3), torch.full((3,), 0.5).double(), temperature, EntropyBound()
                )
