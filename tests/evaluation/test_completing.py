"""Plain prompts become completions with their calls and unmask steps."""

import math
from dataclasses import replace
from pathlib import Path

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


def test_what_cannot_be_completed_is_refused(policy: Policy, tmp_path: Path) -> None:
    assert diffpo.complete(policy, []) == []
    with pytest.raises(UserError, match="one string"):
        diffpo.complete(policy, PROMPTS[0])
    with pytest.raises(UserError, match="length is 0"):
        diffpo.complete(policy, PROMPTS, length=0)
    with pytest.raises(UserError, match="the prompt is empty"):
        diffpo.complete(policy, [PROMPTS[0], ""])
    with pytest.raises(UserError, match="outside the alphabet"):
        diffpo.complete(policy, ["a sudoku, please"])
    with pytest.raises(UserError, match="does not exist"):
        diffpo.complete(tmp_path / "none", PROMPTS)
    diffpo.save(policy, tmp_path / "alone")
    with pytest.raises(UserError, match="length"):
        diffpo.complete(tmp_path / "alone", PROMPTS)
    assert len(diffpo.complete(tmp_path / "alone", PROMPTS, length=LENGTH)) == 3
