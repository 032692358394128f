"""Bounds drawn at random: from the range that a recipe names, the same in every run of a seed, and what a run logs."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny_runs import lines_of, rl_recipe, snapshot
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.core.options import BoundSharing
from diffpo.core.randomness import generator_for
from diffpo.core.rollout import Rollout
from diffpo.recipes import load_recipe
from diffpo.recipes.tables import RlRecipe, SpeedsRecipe
from diffpo.sampling import answering as answering_module
from diffpo.sampling.loop import sample
from diffpo.training.rl import run_rl
from diffpo.training.rl_setup import RlState
from diffpo.training.speeds import draw_bounds, speed_metrics

LOW, HIGH = 0.02, 10.0
RANGE = SpeedsRecipe(low=LOW, high=HIGH)
SPEEDS = ["train=policy", "objective.nfe_penalty=0", "rollout.speeds.low=0.05"]


def log_share(bound: Tensor) -> Tensor:
    """Where the logs of bounds lie in the range, from 0 to 1."""
    return (bound.double().log() - math.log(LOW)) / (math.log(HIGH) - math.log(LOW))


def assert_uniform(shares: Tensor) -> None:
    """Kolmogorov-Smirnov at 0.1 %."""
    steps = torch.arange(len(shares) + 1) / len(shares)
    ordered = shares.sort()[0]
    distance = torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max()
    assert float(distance) < 1.95 / math.sqrt(len(shares))


@pytest.mark.parametrize(("shared_by", "run"), [("batch", 24), ("prompt", 4), ("completion", 1)])
def test_who_shares_a_bound(shared_by: BoundSharing, run: int) -> None:
    bound = draw_bounds((6, 4), SpeedsRecipe(low=LOW, high=HIGH, shared_by=shared_by), generator_for("sharing"))
    assert bound.shape == (24,) and bool(((bound >= LOW) & (bound <= HIGH)).all())
    groups = bound.view(-1, run)
    assert torch.equal(groups, groups[:, :1].expand(-1, run)), "those who share are neighbours"
    assert len(bound.unique()) == 24 // run


def test_every_batch_has_its_share_of_every_speed() -> None:
    """Q bounds: one in each of Q equal parts of the range of logs, in random order."""
    drawn = [draw_bounds((8, 2), RANGE, generator_for("strata", step))[::2] for step in range(50)]
    parts = [(log_share(bound) * 8).floor().tolist() for bound in drawn]
    assert all(sorted(part) == list(range(8)) for part in parts)
    assert len({tuple(part) for part in parts}) > 40, "no prompt's place says its speed"


def test_logs_of_bounds_are_uniform() -> None:
    """Each by itself: with one bound for the batch there is nothing to stratify."""
    shared = SpeedsRecipe(low=LOW, high=HIGH, shared_by="batch")
    assert_uniform(
        log_share(torch.cat([draw_bounds((3, 2), shared, generator_for("uniform", i))[:1] for i in range(2000)]))
    )


@pytest.mark.parametrize("shared_by", ["batch", "prompt", "completion"])
def test_a_share_of_one_call_and_the_rest_over_the_whole_range(shared_by: BoundSharing) -> None:
    speeds = SpeedsRecipe(low=LOW, high=HIGH, shared_by=shared_by, one_call_share=0.75)
    drawn = torch.stack([draw_bounds((4, 2), speeds, generator_for("share", step)) for step in range(2000)])
    is_one_call = drawn.isinf()
    if shared_by == "batch":
        assert float(is_one_call.float().mean()) == pytest.approx(0.75, abs=3.3 * math.sqrt(0.75 * 0.25 / 2000))
    else:
        assert bool((is_one_call.sum(dim=1) == 6).all()), "six of eight, in every batch"
    step = {"batch": 8, "prompt": 2, "completion": 1}[shared_by]
    assert_uniform(log_share(drawn[:, ::step][~is_one_call[:, ::step]]))


def test_a_range_of_one_bound() -> None:
    speeds = SpeedsRecipe(low=0.3, high=0.3, shared_by="completion")
    torch.testing.assert_close(draw_bounds((3, 2), speeds, generator_for()), torch.full((6,), 0.3))


def test_metrics_of_slow_and_of_quick_completions_by_hand() -> None:
    bound, solved = torch.tensor([0.1, 0.2, 1.0, 3.0, 5.0]), torch.tensor([True, False, True, True, False])
    nfe = torch.tensor([8, 6, 3, 2, 1])
    expected = {"accuracy_slow": 1 / 2, "nfe_slow": 7.0, "accuracy_quick": 2 / 3, "nfe_quick": 2.0}
    assert speed_metrics(bound, solved, nfe, middle=1.0) == pytest.approx(expected)
    assert set(speed_metrics(bound, solved, nfe, middle=0.1)) == {"accuracy_quick", "nfe_quick"}
    assert set(speed_metrics(bound, solved, nfe, middle=9.0)) == {"accuracy_slow", "nfe_slow"}
    assert SpeedsRecipe(low=0.01, high=100.0).middle == pytest.approx(1.0)


# -------------------------------------------------------------------------------------------------------------- a run


def test_an_infinite_bound_takes_one_call_for_each_block(base: Path, tmp_path: Path) -> None:
    share = ["rollout.speeds.one_call_share=0.99", "rollout.block_length=4", "budget.steps=1"]
    run_rl(rl_recipe(base, *SPEEDS, *share), tmp_path / "run")
    line = lines_of(tmp_path / "run")[0]
    assert line["nfe"] == line["nfe_quick"] == 4 and "nfe_slow" not in line


def bounds_of(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The bounds that reach the sampler from now on, a row for each call."""
    seen: list[Tensor] = []

    def spy(*arguments: Any) -> Rollout:
        seen.append(arguments[5])
        return sample(*arguments)

    monkeypatch.setattr(answering_module, "sample", spy)
    return seen


def test_a_run_draws_bounds_by_seed_and_step_and_logs_what_came_of_them(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = bounds_of(monkeypatch)
    run_rl(rl_recipe(base, *SPEEDS, "seed=5", "budget.steps=2"), tmp_path / "run")
    expected = [draw_bounds((3, 4), SpeedsRecipe(low=0.05), generator_for(5, "bounds", step)) for step in range(2)]
    assert [bound.tolist() for bound in seen] == [bound.tolist() for bound in expected]
    for line in lines_of(tmp_path / "run"):
        assert line["nfe_slow"] > line["nfe"] > line["nfe_quick"] >= 1
        assert min(line["accuracy_slow"], line["accuracy_quick"]) <= line["accuracy"]


def test_a_run_without_speeds_leaves_the_bound_to_its_rule(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = bounds_of(monkeypatch)
    run_rl(rl_recipe(base, "train=policy", "budget.steps=1"), tmp_path / "run")
    assert seen == [None]
    assert not {"nfe_slow", "accuracy_quick"} & set(lines_of(tmp_path / "run")[0])


def test_a_run_at_many_speeds_goes_on_bit_for_bit(base: Path, tmp_path: Path) -> None:
    def fail_at_three(_: RlState, step: int, calls: int, share: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    recipe = rl_recipe(base, *SPEEDS, "budget.steps=4", "checkpoint.every=2")
    run_rl(recipe, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run_rl(recipe, tmp_path / "again", on_step=fail_at_three)
    run_rl(recipe, tmp_path / "again", resume=True)
    assert snapshot(tmp_path / "straight") == snapshot(tmp_path / "again")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["rollout.speeds.low=3", "rollout.speeds.high=2"], "low 3 is above high 2; give the smaller bound first"),
        (["rollout.speeds.one_call_share=1"], "rollout.speeds.one_call_share: should be less than 1"),
        (["rollout.speeds.low=0"], "rollout.speeds.low: should be greater than 0"),
        (
            ["rollout.speeds.low=1", "rollout.rule.kind=leftmost"],
            "rollout: speeds draws entropy bounds, which rule.kind 'leftmost' does not have; use 'entropy-bound', or",
        ),
        (
            ["rollout.speeds.low=1", "train=joint"],
            "rollout.speeds draws the entropy bounds that train = 'joint' would learn; use train = 'policy', or leave",
        ),
    ],
)
def test_speeds_that_cannot_be_are_refused(settings: list[str], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(RlRecipe, None, ["base=some/model", "budget.steps=1", "train=policy", *settings])
    assert expected in str(caught.value)
