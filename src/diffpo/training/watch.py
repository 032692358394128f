"""Looks for a run that learns nothing, step after step, and says so with an example."""

from collections.abc import Mapping
from dataclasses import dataclass

from diffpo.core.errors import UserError
from diffpo.core.output import warn
from diffpo.core.printable import printable
from diffpo.distributed.process import current_process
from diffpo.models.tokenizer import decode_text
from diffpo.sampling.policy import Policy
from diffpo.training.rollouts import Batch

QUIET_STEPS = 10
SHOWN_CHARACTERS = 300

IN = "in {steps:g} steps on end "
ALL_RIGHT = IN + (
    "every completion was right, so that nothing is left to learn: the rows are too easy, or the run is done; give "
    "harder rows, or end it"
)
NONE_RIGHT = IN + (
    "no completion was right and all of each prompt earned the same (on average {reward:g}), so that nothing is "
    "learned: the task is too hard for the model yet (train it by diffpo sft first), or the grader does not see what "
    "is right; look at a completion, {completion}"
)
ALL_OR_NONE = IN + (
    "each prompt was solved by all of its completions or by none ({accuracy:.0%} by all), so that nothing is learned: "
    "give rows that are neither too easy nor too hard; look at a completion, {completion}"
)
ALIKE = IN + (
    "all completions of each prompt earned the same (on average {reward:g}), so that nothing is learned: "
    "look at the reward, and at a completion, {completion}"
)
NOTHING_MOVED = IN + (
    "the gradient was 0, so that nothing is learned (rewards are {reward:g} on average); look at a completion, "
    "{completion}"
)


def cause(metrics: Mapping[str, float]) -> str:
    """Return the message for a step of which nothing can be learned: what is the likeliest reason?"""
    if metrics["frac_reward_zero_std"] < 1:
        return NOTHING_MOVED
    if metrics["accuracy"] == 1:
        return ALL_RIGHT
    # What is rewarded and never right is another matter: a reward of one's own that is the same for all.
    if metrics["accuracy"] == 0:
        return NONE_RIGHT if metrics["reward"] <= 0 else ALIKE
    return ALL_OR_NONE if metrics["reward"] > 0 else ALIKE


@dataclass
class Watch:
    """Counts the steps on end in which nothing could be learned."""

    quiet_steps: int = 0

    def has_learned_nothing(self, metrics: Mapping[str, float], group_size: int) -> bool:
        """Return whether this is at least the tenth step on end whose rewards or gradient tell nothing.

        A group of one completion, as expert iteration may draw, has no rewards to compare.
        """
        is_equal = group_size > 1 and metrics["frac_reward_zero_std"] == 1
        is_quiet = is_equal or metrics.get("grad_norm") == 0
        self.quiet_steps = self.quiet_steps + 1 if is_quiet else 0
        return self.quiet_steps >= QUIET_STEPS


def example(policy: Policy, batch: Batch) -> str:
    """Return the first completion of a batch that is not empty as a message shows it."""
    texts = (
        decode_text(policy.tokenizer, ids, policy.denoiser.stop_ids) for ids in batch.rollout.completion_ids.tolist()
    )
    return repr(next(filter(None, texts), "")[:SHOWN_CHARACTERS])


def check_grader(batch: Batch) -> None:
    """Raise UserError where the grader has failed on every completion: a run could learn nothing from it.

    It is one line; the traceback of the user's code is a warning before it.
    """
    if batch.grader_failed == batch.reward.numel():
        failure, _, trace = batch.first_failure.partition("\n")
        if trace and current_process().is_main:
            warn(printable(trace))
        raise UserError(
            f"the grader failed on all {batch.grader_failed} completions of the run's first step, so nothing was "
            f"trained; mend it: {printable(failure) or 'the task gives no reason'}"
        )
