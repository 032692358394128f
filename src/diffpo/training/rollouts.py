"""Problems become one batch of rollouts with rewards and advantages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffpo.core.errors import UserError
from diffpo.core.options import ScoredTokens
from diffpo.core.rollout import Rollout
from diffpo.distributed.collectives import all_gather_columns, all_gather_json, raise_on_all_ranks
from diffpo.distributed.process import current_process, rank_slice
from diffpo.distributed.sharding import gathered
from diffpo.objective.advantages import Advantage
from diffpo.objective.rewards import standardized_apart
from diffpo.sampling.answering import answer_problems, grade_rollout
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy
from diffpo.tasks.base import Grade, Problem, Task
from diffpo.tasks.custom_reward import PART
from diffpo.training.dealing import can_deal_anew, dealt_evenly, draw_dealt_anew, idle_share


@dataclass(frozen=True)
class Batch:
    """One step's experience. Rows are ordered by prompt: Q prompts x G completions = B."""

    rollout: Rollout
    reward: Float[Tensor, "Q G"]
    """Reward of the tokens."""
    bound_reward: Float[Tensor, "Q G"]
    """Reward of what the learned sampler drew: entropy bounds, or the sets that calls committed."""
    is_solved: Bool[Tensor, "Q G"]
    is_scored: Bool[Tensor, "B L"]
    """Tokens whose log-probabilities count."""
    advantage: Float[Tensor, " B"]
    bound_advantage: Float[Tensor, " B"]
    """Advantage of what the learned sampler drew."""
    grader_failed: int = 0
    """Completions that earned nothing because the grader failed, which is no fault of the model's."""
    first_failure: str = ""
    """Why, of the first of them."""
    reward_parts: Mapping[str, Float[Tensor, "Q G"]] = field(default_factory=dict)
    """What each of the user's rewards gave, unweighted, by the names `rewards/NAME`."""
    prompts_too_long: int = 0
    """Prompts that were left out before these were found."""
    idle_share: float = 0.0
    """Of the time that processes spend on rollouts the share in which they wait for the one with most to compute, by
    the tokens that denoiser calls had."""

    @property
    def tokens_per_call(self) -> Float[Tensor, "Q G"]:
        """Tokens of each answer, its stop token included, over the denoiser calls that it took."""
        return answer_tokens_per_call(self.rollout, self.reward.shape[1])

    @property
    def has_spread(self) -> Bool[Tensor, " B"]:
        """Whether the completions of the row's prompt earned different rewards, so that there is something to learn."""
        spread: Bool[Tensor, " B"] = (self.reward.amax(dim=1) > self.reward.amin(dim=1)).repeat_interleave(
            self.reward.shape[1]
        )
        return spread

    def rows(self, index: slice | Tensor) -> "Batch":
        """Return some rows, for a micro-batch; what is per prompt is kept whole."""
        return replace(
            self,
            rollout=self.rollout.rows(index),
            is_scored=self.is_scored[index],
            advantage=self.advantage[index],
            bound_advantage=self.bound_advantage[index],
        )


@dataclass(frozen=True)
class Incentive:
    """How grades become the advantages of the tokens, or those of the entropy bounds.

    reward = grade - nfe_penalty * solved * nfe / length, with `nfe_penalty` in [0, 1] what a solved problem loses when
    it takes one call per token. The factor `solved` is a gate: a wrong answer, or one that earns only partial credit,
    gains nothing by being quick. The price ends where it would make a solved answer worth less than an unsolved one of
    its prompt, which partial credit, or a reward of the user's own, pays: slow and right is never the worse answer.

    With `speed_coef` it is instead LightningRL's sum of grade and tokens per call, each standardised within its group
    (`standardized_apart`), without a gate: a wrong answer that is quick gains by it, too.
    """

    nfe_penalty: float
    advantage: Advantage
    speed_coef: float | None = None

    def advantages(self, reward: Float[Tensor, "Q G"]) -> Float[Tensor, " B"]:
        """Return the advantages of all completions. Raises UserError for an advantage function of the wrong shape."""
        found = self.advantage(reward)
        if found.shape != reward.shape:
            name = getattr(self.advantage, "__name__", repr(self.advantage))
            raise UserError(
                f"the advantage {name} returns {list(found.shape)} for rewards {list(reward.shape)} of prompts x "
                "completions; return one advantage for each reward"
            )
        return found.flatten()

    def reward(
        self,
        grade: Float[Tensor, "Q G"],
        is_solved: Bool[Tensor, "Q G"],
        nfe_share: Float[Tensor, "Q G"],
        tokens_per_call: Float[Tensor, "Q G"],
    ) -> Float[Tensor, "Q G"]:
        """Return the rewards of completions that took `nfe_share` calls per position, and whose answers have so many
        tokens per call."""
        if self.speed_coef is not None:
            return standardized_apart(grade, tokens_per_call, self.speed_coef)
        best_unsolved = grade.masked_fill(is_solved, -torch.inf).amax(dim=1, keepdim=True)
        priced = grade - self.nfe_penalty * nfe_share
        return torch.where(is_solved, priced.maximum(best_unsolved.minimum(grade)), grade)


def scored(rollout: Rollout, scored_tokens: ScoredTokens) -> Bool[Tensor, "B L"]:
    """Return the tokens whose log-probabilities count: up to and including the first stop token, or all drawn ones."""
    return rollout.is_answer if scored_tokens == "to-stop" else rollout.is_drawn


def answer_tokens_per_call(rollout: Rollout, group_size: int) -> Float[Tensor, "Q G"]:
    """Return the tokens of each answer, its stop token included, over the denoiser calls that it took."""
    return (rollout.is_answer.sum(dim=1) / rollout.nfe).view(-1, group_size)


def collect_batch(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    decoding: Decoding,
    group_size: int,
    token_incentive: Incentive,
    bound_incentive: Incentive,
    generator: torch.Generator,
    scored_tokens: ScoredTokens,
    entropy_bound: Float[Tensor, " B"] | None = None,
) -> Batch:
    """Draw `group_size` completions of every problem, grade them, and compare them with each other.

    `scored_tokens`: those up to and including the first stop token, or all that were drawn. `entropy_bound`: one for
    each completion, in place of the rule's.

    Of several processes each draws and grades the completions of its share of the problems; then all have all of them.
    Where bounds are given, which say who takes many calls, each gets as many slow ones as the others, and rows are
    dealt anew as it shows (`draw_dealt_anew`).
    """
    repeated = [problem for problem in problems for _ in range(group_size)]
    seeds = torch.randint(2**62, (len(repeated),), generator=generator)
    rows = torch.arange(len(repeated))
    if entropy_bound is not None and (size := current_process().world_size) > 1:
        order = dealt_evenly(-entropy_bound.view(-1, group_size).mean(dim=1), size)
        rows = rows.view(-1, group_size)[order].flatten()
        entropy_bound = entropy_bound[rows]
    own, tokens_before = rank_slice(len(repeated), group_size), policy.denoiser.usage.tokens
    with gathered(policy.denoiser.model):
        dealt, seeds = [repeated[row] for row in rows.tolist()], seeds[rows]
        # Completions of a prompt that have bounds of their own wait for each other, to share canvases.
        if (entropy_bound is None or group_size == 1) and can_deal_anew(decoding, own.stop - own.start):
            rollout, spent = draw_dealt_anew(policy, dealt, decoding, seeds, group_size, entropy_bound)
            with raise_on_all_ranks():
                grades = grade_rollout(policy, task, dealt[own], rollout)
        else:
            with raise_on_all_ranks():
                rollout, grades = answer_problems(policy, task, dealt, decoding, seeds, own, entropy_bound)
            spent = [policy.denoiser.usage.tokens - tokens_before]
    found = all_gather_columns(
        {field.name: getattr(rollout, field.name) for field in fields(rollout)}
        | {name: torch.tensor(column, device=rollout.nfe.device) for name, column in _columns(grades).items()}
    )
    place = rows.argsort().to(rollout.nfe.device)
    found = {name: column[place] for name, column in found.items()}
    rollout = Rollout(**{field.name: found.pop(field.name) for field in fields(rollout)})
    parts = {name: column.view(-1, group_size) for name, column in found.items()}
    grade, is_solved, has_failed = (parts.pop(name) for name in ("grade", "is_solved", "has_failed"))
    failure = next((grade.failure for grade in grades if grade.status == "grader_failed"), "")
    failures, tokens = zip(*all_gather_json((failure, spent)), strict=True)
    nfe_share = (rollout.nfe / decoding.length).view(-1, group_size)
    speed = answer_tokens_per_call(rollout, group_size)
    reward = token_incentive.reward(grade, is_solved, nfe_share, speed)
    bound_reward = bound_incentive.reward(grade, is_solved, nfe_share, speed)
    return Batch(
        rollout=rollout,
        reward=reward,
        bound_reward=bound_reward,
        is_solved=is_solved,
        is_scored=scored(rollout, scored_tokens),
        advantage=token_incentive.advantages(reward),
        bound_advantage=bound_incentive.advantages(bound_reward),
        grader_failed=int(has_failed.sum()),
        first_failure=next(filter(None, failures), ""),
        reward_parts=parts,
        idle_share=idle_share(tokens),
    )


def _columns(grades: Sequence[Grade]) -> dict[str, list[float] | list[bool]]:
    """Return what a batch needs of its grades; by the names `rewards/NAME` what each of the user's rewards gave."""
    prefix = PART.format("")
    names = sorted({name for grade in grades for name in grade.parts if name.startswith(prefix)})
    return {
        "grade": [float(grade.reward) for grade in grades],
        "is_solved": [grade.is_solved for grade in grades],
        "has_failed": [grade.status == "grader_failed" for grade in grades],
        **{name: [float(grade.parts[name]) for grade in grades] for name in names},
    }
