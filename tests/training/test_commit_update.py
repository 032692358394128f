"""Commit policies in training: the gradient against enumeration; runs that go on, are merged and evaluated."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers.commits import DrawnTrajectory, SetKey, commit_policy, drawn_trajectories, logits_of, set_inputs
from tests.helpers.oracle import keys_of, rollout_of
from tests.helpers.risk import HiddenTable
from tests.helpers.tiny_runs import lines_of, rl_recipe, snapshot, weights_of
from tests.training.test_runs import Crash, after_step, crash

from diffpo.api.completed import complete
from diffpo.core.errors import NonFiniteLossError
from diffpo.core.options import CommitPolicyKind
from diffpo.evaluation.run import LEARNED, decodings_of
from diffpo.models.encoding import encode_prompts
from diffpo.models.model_paths import checkpoints
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import EvalRecipe
from diffpo.runs.merge import run_merge
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.commit_rules import commit_rule
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.policy import load
from diffpo.sampling.rules import ConfidenceThreshold, EntropyBound
from diffpo.tasks.sudoku import Sudoku
from diffpo.training import commit_update as commit_update_module
from diffpo.training.commit_update import update_commit_policy
from diffpo.training.rl import run_rl
from diffpo.training.rollouts import Batch
from diffpo.training.warm_start import demonstrate, imitate_

VOCAB, LENGTH, STOP = 4, 3, 2
KINDS: list[CommitPolicyKind] = ["confidence-policy", "planner"]
COMMIT_KEYS = {"commit_reward", "commit_probability", "commit_logp"}
NO_LIMIT = 1e9
"""Of a gradient's norm."""


def new_policy(kind: CommitPolicyKind) -> CommitPolicy:
    return commit_policy(kind, VOCAB if kind == "planner" else 1, seed=2, spread=0.8).requires_grad_(True)


def reward_of(key: SetKey) -> float:
    return sum((i + 1) * token for i, token in enumerate(key[0])) % 5 - 0.7 * max(key[1])


def every_trajectory(table: HiddenTable, policy: CommitPolicy, block_length: int) -> dict[SetKey, DrawnTrajectory]:
    return drawn_trajectories(table, [3], LENGTH, block_length, logits_of(policy, LENGTH), 1.0, table.stop_ids)


def population(table: HiddenTable, policy: CommitPolicy, block_length: int) -> Batch:
    """All trajectories as one batch; a row's advantage makes the mean over rows the expectation of the reward."""
    known = every_trajectory(table, policy, block_length)
    rows = len(known)
    ids, steps, is_drawn = (torch.tensor([key[part] for key in known]) for part in range(3))
    rollout = rollout_of(torch.full((rows, 1), 3), ids, steps)
    sets = torch.tensor([[*found.set_logp, *[0.0] * LENGTH][:LENGTH] for found in known.values()])
    inputs = torch.stack([set_inputs(table, policy, [3], key, block_length) for key in known])
    reward = torch.tensor([[reward_of(key) for key in known]])
    weight = rows * torch.tensor([found.probability for found in known.values()])
    return Batch(
        rollout=replace(rollout, is_drawn=is_drawn, commit_logp=sets, commit_inputs=inputs),
        reward=reward,
        bound_reward=reward,
        is_solved=reward > 0,
        is_scored=is_drawn,
        advantage=torch.zeros(rows),
        bound_advantage=weight * reward[0],
    )


def moved(policy: CommitPolicy, batch: Batch, block_length: int) -> torch.Tensor:
    """What SGD adds to the weights, over the learning rate."""
    before = torch.cat([p.detach().flatten().clone() for p in policy.parameters()])
    update_commit_policy(policy, batch, block_length, torch.optim.SGD(policy.parameters(), lr=1e-3), NO_LIMIT)
    return (torch.cat([p.detach().flatten() for p in policy.parameters()]) - before) / 1e-3


@pytest.mark.parametrize(("block_length", "stop_ids"), [(3, ()), (3, (STOP,)), (1, ())])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_follows_the_gradient_of_the_enumerated_expected_reward(
    kind: CommitPolicyKind, block_length: int, stop_ids: tuple[int, ...]
) -> None:
    table, policy = HiddenTable(width=LENGTH + 1, scale=1.5), new_policy(kind)
    table.stop_ids = stop_ids
    gradient = moved(new_policy(kind), population(table, policy, block_length), block_length)

    def expected_reward() -> float:
        known = every_trajectory(table, policy, block_length)
        return sum(found.probability * reward_of(key) for key, found in known.items())

    policy.requires_grad_(False)
    flat = torch.nn.utils.parameters_to_vector(policy.parameters())
    assert float(gradient.abs().max()) > (0.01 if block_length > 1 else -1)  # a block of one leaves no choice
    for place in gradient.abs().argsort(descending=True)[:8].tolist():
        values = []
        for change in (4e-3, -4e-3):
            shifted = flat.clone()
            shifted[place] += change
            torch.nn.utils.vector_to_parameters(shifted, policy.parameters())
            values.append(expected_reward())
        slope = (values[0] - values[1]) / 8e-3
        assert float(gradient[place]) == pytest.approx(slope, abs=2e-4, rel=1e-2)


def test_calls_in_parts_give_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    table = HiddenTable(width=LENGTH + 1, scale=1.5)
    batch = population(table, new_policy("planner"), LENGTH)
    whole = moved(new_policy("planner"), batch, LENGTH)
    monkeypatch.setattr(commit_update_module, "POSITIONS_AT_A_TIME", 10 * LENGTH)
    torch.testing.assert_close(moved(new_policy("planner"), batch, LENGTH), whole, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_leaves_the_policy_untouched(value: float) -> None:
    table, policy = HiddenTable(width=LENGTH + 1, scale=1.5), new_policy("confidence-policy")
    batch = population(table, policy, LENGTH)
    batch = replace(batch, bound_advantage=torch.full_like(batch.bound_advantage, value))
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    with pytest.raises(NonFiniteLossError):
        update_commit_policy(policy, batch, LENGTH, torch.optim.Adam(policy.parameters()), NO_LIMIT)
    assert all(torch.equal(*pair) for pair in zip(before, policy.parameters(), strict=True))


# ---------------------------------------------------------------------------------------------------------------- runs


def settings(kind: str, train: str) -> list[str]:
    return [f"controller.kind={kind}", f"train={train}", "controller.momentum=0.05", "controller.hidden=16"]


@pytest.mark.parametrize(
    ("kind", "train"), [("confidence-policy", "controller"), ("planner", "joint"), ("planner", "controller")]
)
def test_a_run_trains_what_it_is_told_to_and_goes_on_bit_for_bit(
    kind: str, train: str, base: Path, tmp_path: Path
) -> None:
    options = [*settings(kind, train), "budget.steps=4", "checkpoint.every=2"]
    run_rl(rl_recipe(base, *options), tmp_path / "straight")
    with pytest.raises(Crash), pytest.MonkeyPatch.context() as patch:
        after_step(patch, 3, crash)
        run_rl(rl_recipe(base, *options), tmp_path / "halves")
    run_rl(rl_recipe(base, *options), tmp_path / "halves", resume=True)
    assert snapshot(tmp_path / "straight") == snapshot(tmp_path / "halves")

    first, last = checkpoints(tmp_path / "straight")
    assert weights_of(first)["controller.safetensors/last.bias"] != weights_of(last)["controller.safetensors/last.bias"]
    is_unchanged = weights_of(checkpoints(base)[-1]).items() <= weights_of(last).items()
    assert is_unchanged == (train == "controller")
    policy = load(last).controller
    assert isinstance(policy, CommitPolicy)
    assert (policy.kind, policy.num_inputs, policy.width) == (kind, 32 if kind == "planner" else 1, 16)
    for line in lines_of(tmp_path / "straight"):
        assert line.keys() >= COMMIT_KEYS and "bound_median" not in line and line["commit_logp"] < 0
        assert 0 < line["commit_probability"] < 1


def test_drawn_sets_are_trained_whatever_is_in_flight(base: Path, tmp_path: Path) -> None:
    for name, options in (("whole", []), ("few", ["rollout.max_in_flight=5"])):
        run_rl(rl_recipe(base, *settings("planner", "joint"), "budget.steps=2", *options), tmp_path / name)
    for one, other in zip(*(lines_of(tmp_path / name) for name in ("whole", "few")), strict=True):
        for key in ("reward", "nfe", "commit_logp", "commit_reward"):
            assert one[key] == pytest.approx(other[key], abs=1e-4), key


@pytest.mark.parametrize("kind", KINDS)
def test_a_commit_policy_decodes_in_evaluation_and_completion(
    kind: CommitPolicyKind, base: Path, tmp_path: Path
) -> None:
    run_rl(rl_recipe(base, *settings(kind, "controller"), "budget.steps=1"), tmp_path / "run")
    policy = load(tmp_path / "run")
    assert isinstance(policy.controller, CommitPolicy)
    recipe = load_recipe(EvalRecipe, None, [f"model={tmp_path / 'run'}", "bounds=[0.1]"])
    decoding = decodings_of(recipe, {}, policy, 16, 16)[LEARNED]
    assert decoding.deciding_rule == commit_rule(policy.controller) and not decoding.explore
    prompts = ["213434214312m24p", "m2434m23m3214314"]
    ids, mask = encode_prompts(policy.tokenizer, prompts)
    rollout = sample(policy.denoiser, ids, mask, decoding)
    found = complete(policy, prompts, length=16)
    assert [completion.unmask_step for completion in found] == [steps for _, steps in keys_of(rollout)]


def test_merging_an_adapter_keeps_the_planner(base: Path, tmp_path: Path) -> None:
    options = [*settings("planner", "joint"), "lora.rank=2", "lora.alpha=4", "budget.steps=2"]
    run_rl(rl_recipe(base, *options), tmp_path / "run")
    run_merge(tmp_path / "run", tmp_path / "merged")
    adapted, merged = load(tmp_path / "run").controller, load(tmp_path / "merged").controller
    assert isinstance(adapted, CommitPolicy) and isinstance(merged, CommitPolicy)
    assert all(torch.equal(*pair) for pair in zip(adapted.parameters(), merged.parameters(), strict=True))


# ---------------------------------------------------------------------------------------------------------- warm start


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_is_what_the_threshold_commits(kind: CommitPolicyKind, base: Path) -> None:
    policy, problems = load(base), Sudoku().problems("train", 6, seed=0)
    shown = demonstrate(policy, kind, problems, Decoding(EntropyBound(), 16, 8, 1.0), threshold=0.7)
    ids, mask = encode_prompts(policy.tokenizer, [problem.prompt for problem in problems])
    rollout = sample(policy.denoiser, ids, mask, Decoding(ConfidenceThreshold(0.7), 16, 8))
    assert len(shown.inputs) == int(rollout.nfe.sum())
    assert int(shown.is_commit.sum()) == rollout.is_drawn.sum()
    assert shown.inputs.shape[2] == (32 if kind == "planner" else 1)
    if kind == "confidence-policy":
        is_sure = shown.is_candidate & (shown.inputs[..., 0] >= 0.7)
        has_sure = is_sure.any(dim=1)
        assert torch.equal(shown.is_commit[has_sure], is_sure[has_sure])


@pytest.mark.parametrize("kind", ["confidence-policy", pytest.param("planner", marks=pytest.mark.slow)])
def test_a_policy_learns_to_imitate_the_threshold(kind: CommitPolicyKind, base: Path) -> None:
    problems = Sudoku(min_clues=6, max_clues=10).problems("train", 48, seed=0)
    shown = demonstrate(load(base), kind, problems, Decoding(EntropyBound(), 16, 16), threshold=0.7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = CommitPolicy(kind, shown.inputs.shape[2], 32)
    imitate_(policy, shown, steps=400, lr=3e-3, seed=0)
    with torch.no_grad():
        probability = policy(shown.inputs, shown.is_candidate).sigmoid()
    right = (probability > 0.5) == shown.is_commit
    share = float(shown.is_commit[shown.is_candidate].float().mean())
    assert 0.03 < share < 0.97
    assert float(right[shown.is_candidate].float().mean()) > max(share, 1 - share) + 0.3 * min(share, 1 - share)


def test_a_warm_start_is_there_before_the_first_step_alone(base: Path, tmp_path: Path) -> None:
    warm = [*settings("planner", "joint"), "controller.warm_start={threshold=0.7, count=8, steps=20, lr=0.01}"]
    run_rl(rl_recipe(base, *warm, "budget.steps=2", "checkpoint.every=1"), tmp_path / "straight")
    with pytest.raises(Crash), pytest.MonkeyPatch.context() as patch:
        after_step(patch, 2, crash)
        run_rl(rl_recipe(base, *warm, "budget.steps=2", "checkpoint.every=1"), tmp_path / "halves")
    run_rl(rl_recipe(base, *warm, "budget.steps=2", "checkpoint.every=1"), tmp_path / "halves", resume=True)
    assert snapshot(tmp_path / "straight") == snapshot(tmp_path / "halves")
    run_rl(rl_recipe(base, *settings("planner", "joint"), "budget.steps=1"), tmp_path / "cold")
    first = [lines_of(tmp_path / name)[0] for name in ("straight", "cold")]
    assert first[0]["commit_probability"] > first[1]["commit_probability"] + 0.1
    assert first[0]["denoiser_calls"] > 8
