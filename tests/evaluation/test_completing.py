"""Plain prompts become completions with their calls and unmask steps."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import diffpo
from diffpo.core.errors import UserError
from diffpo.sampling.controller import Controller
from diffpo.sampling.policy import Policy, load
from diffpo.sampling.rules import EntropyBound, TopK
from diffpo.tasks.sudoku import Sudoku

PROMPTS = [problem.prompt for problem in Sudoku(min_clues=13, max_clues=15).problems("test", 3, seed=0)]
LENGTH = 16


@pytest.fixture(scope="module")
def policy(base: Path) -> Policy:
    return load(base)


def test_a_folder_and_its_policy_complete_alike(policy: Policy, base: Path) -> None:
    from_policy, from_folder = diffpo.complete(policy, PROMPTS), diffpo.complete(base, PROMPTS)
    assert from_policy == from_folder == diffpo.complete(str(base), PROMPTS)
    for completion in from_policy:
        assert completion.nfe == LENGTH and completion.entropy_bound == 0
        assert sorted(completion.unmask_step) == list(range(LENGTH)), (
            "one token a call, without a rule and a controller"
        )
        assert len(completion.text) <= LENGTH and set(completion.text) <= set(Sudoku().alphabet)


def test_prompts_do_not_depend_on_each_other(policy: Policy) -> None:
    alone = [diffpo.complete(policy, [prompt])[0] for prompt in PROMPTS]
    assert diffpo.complete(policy, PROMPTS) == alone
    drawn = diffpo.complete(policy, PROMPTS, temperature=1.0, seed=5)
    assert drawn[1] == diffpo.complete(policy, PROMPTS[1:2], temperature=1.0, seed=6)[0], "row i has the seed + i"


def test_a_rule_decides_how_many_tokens_a_call_commits(policy: Policy) -> None:
    (fast,) = diffpo.complete(policy, PROMPTS[:1], rule=TopK(4))
    assert fast.nfe == 4 and [fast.unmask_step.count(step) for step in range(4)] == [4] * 4
    assert math.isnan(fast.entropy_bound)
    (blocks,) = diffpo.complete(policy, PROMPTS[:1], rule=EntropyBound(1e9), block_length=8)
    assert blocks.unmask_step == (0,) * 8 + (1,) * 8


def test_a_controller_chooses_the_bounds_unless_there_is_a_rule(policy: Policy) -> None:
    controlled = replace(policy, controller=Controller(initial_bound=0.7, hidden=8))
    bounds = [completion.entropy_bound for completion in diffpo.complete(controlled, PROMPTS)]
    assert bounds == pytest.approx([0.7] * 3)
    assert diffpo.complete(controlled, PROMPTS, rule=EntropyBound(0.0)) == diffpo.complete(policy, PROMPTS)


def test_a_text_any_iterable_and_conversations_are_prompts(policy: Policy) -> None:
    expected = diffpo.complete(policy, PROMPTS)
    assert diffpo.complete(policy, PROMPTS[0]) == expected[:1]
    assert diffpo.complete(policy, (prompt for prompt in PROMPTS)) == expected
    assert diffpo.complete(policy, [[{"role": "user", "content": prompt}] for prompt in PROMPTS]) == expected


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"length": 0}, "length is 0; give a whole number, at least 1"),
        ({"block_length": 0}, "block_length is 0"),
        ({"temperature": math.nan}, "temperature is nan; give a finite number from 0 up"),
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"price": 1.0}, "or leave the price out"),
    ],
)
def test_options_are_checked(policy: Policy, option: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        diffpo.complete(policy, PROMPTS, **option)


def test_more_than_the_model_takes_is_refused_and_more_than_it_has_learned_told(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert policy.most_tokens == 1024
    prompt = PROMPTS[0]
    monkeypatch.setattr(Policy, "most_tokens", len(prompt) + 20)
    assert diffpo.complete(policy, prompt, length=20, rule=TopK(20))[0].nfe == 1
    assert "was trained on completions of 16 tokens, and these have 20" in capsys.readouterr().err
    with pytest.raises(UserError, match=rf"prompts\[0\] has {len(prompt)} tokens and its completion 21, and"):
        diffpo.complete(policy, prompt, length=21)
    diffpo.complete(policy, prompt, length=16)
    assert capsys.readouterr().err == "", "16 are what it has learned"


def test_what_cannot_be_completed_is_refused(policy: Policy, tmp_path: Path) -> None:
    assert diffpo.complete(policy, []) == []
    with pytest.raises(UserError, match="length is 0"):
        diffpo.complete(policy, PROMPTS, length=0)
    with pytest.raises(UserError, match=r"prompts\[1\] is empty"):
        diffpo.complete(policy, [PROMPTS[0], ""])
    with pytest.raises(UserError, match=r"prompts\[1\]: .* knows only the characters"):
        diffpo.complete(policy, [PROMPTS[0], "a sudoku, please"])
    with pytest.raises(UserError, match="does not exist"):
        diffpo.complete(tmp_path / "none", PROMPTS)
    diffpo.save(policy, tmp_path / "alone")
    with pytest.raises(UserError, match="length"):
        diffpo.complete(tmp_path / "alone", PROMPTS)
    assert len(diffpo.complete(tmp_path / "alone", PROMPTS, length=LENGTH)) == 3
