"""When a run is said to learn nothing."""

import re

import pytest

from diffpo.training.watch import QUIET_STEPS, Watch, cause

QUIET, MOVING = {"frac_reward_zero_std": 1.0, "grad_norm": 0.2}, {"frac_reward_zero_std": 0.9, "grad_norm": 0.2}
STILL = {"frac_reward_zero_std": 0.0, "grad_norm": 0.0}


def said(watch: Watch, *steps: dict[str, float], group: int = 2) -> list[bool]:
    return [watch.has_learned_nothing(metrics, group) for metrics in steps]


@pytest.mark.parametrize("quiet", [QUIET, STILL])
def test_the_tenth_quiet_step_on_end_is_told(quiet: dict[str, float]) -> None:
    assert said(Watch(), *[quiet] * (QUIET_STEPS + 1)) == [False] * (QUIET_STEPS - 1) + [True, True]


def test_a_step_that_moves_begins_anew() -> None:
    watch = Watch()
    assert not any(said(watch, *[QUIET] * (QUIET_STEPS - 1), MOVING, *[QUIET] * (QUIET_STEPS - 1)))
    assert said(watch, QUIET) == [True]


@pytest.mark.parametrize(
    ("accuracy", "reward", "is_alike", "told"),
    [
        (1.0, 1.0, 1.0, "every completion was right, .* the rows are too easy"),
        (0.0, 0.0, 1.0, "no completion was right .* too hard for the model"),
        (0.0, 1.0, 1.0, "all completions of each prompt earned the same .* look at the reward"),
        (0.5, 0.0, 1.0, "all completions of each prompt earned the same .* look at the reward"),
        (0.9, 0.8, 1.0, "solved by all of its completions or by none .* neither too easy nor too hard"),
        (1.0, 1.0, 0.9, "the gradient was 0"),
    ],
)
def test_the_likeliest_reason_is_told(accuracy: float, reward: float, is_alike: float, told: str) -> None:
    assert re.search(told, cause({"accuracy": accuracy, "reward": reward, "frac_reward_zero_std": is_alike}))


def test_a_single_completion_has_nothing_to_be_equal_to() -> None:
    assert not any(said(Watch(), *[QUIET] * 20, group=1))
