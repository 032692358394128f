"""The pieces of one RL step, in the order in which `run_rl` calls them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from diffpo.core.printable import printable
from diffpo.core.randomness import derive_seed, generator_for
from diffpo.distributed.process import current_process
from diffpo.objective.diagnostics import PUSHES_DOWN, pushes_down
from diffpo.recipes.tables import AdamRecipe, BudgetRecipe, ExpertIterationObjective, RlRecipe, SpeedsRecipe
from diffpo.runs.optimizer import set_learning_rate
from diffpo.runs.progress import ProgressBar
from diffpo.runs.prompt_filter import PROMPTS_TOO_LONG, draw_problems
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.controller import Controller
from diffpo.sampling.controller_files import LearnedController
from diffpo.sampling.policy import Policy
from diffpo.training.commit_update import update_commit_policy
from diffpo.training.controller_update import bound_metrics, update_controller
from diffpo.training.expert_iteration import imitate
from diffpo.training.policy_update import update_policy
from diffpo.training.rl_setup import RlState
from diffpo.training.rollouts import Batch, collect_batch
from diffpo.training.speeds import draw_bounds, speed_metrics
from diffpo.training.update_settings import PolicyUpdate
from diffpo.training.watch import Watch, cause, example

SHOWN = ("accuracy", "nfe", "reward", "kl", "loss")
"""The metrics of a step that its progress shows, the first four that it has."""
GRADER_FAILED = "the grader failed on {grader_failed:g} completions of a step, which earned 0; of the first: {failure}"

NOTHING_RIGHT = (
    "no completion was right so far, and expert iteration learns from right ones alone: start from a model that solves "
    "some problems, take easier ones, or draw slower or more varied rollouts"
)


@dataclass(frozen=True)
class Stage:
    """What a step trains, and how. A joint run may end with a stage that trains the controller alone."""

    trains_policy: bool
    temperature: float
    """Temperature of its rollouts."""
    bound_nfe_penalty: float
    bound_optimizer: AdamRecipe
    spent: float
    """Share of the stage's part of the budget that is gone."""


def spent(budget: BudgetRecipe, step: int, calls: int) -> float:
    """Return the share of the budget that is gone, from 0 to 1, by the limit that is nearest."""
    limits = ((step, budget.steps), (calls, budget.denoiser_calls))
    return min(1.0, max(done / limit for done, limit in limits if limit is not None))


def stage_at(recipe: RlRecipe, share: float) -> Stage:
    """Return the stage of a run when `share` of its budget is gone.

    Rollouts of the last stage are greedy, as at evaluation. A sampled rollout fails by its noise whatever the bound, so
    it teaches bounds that are too large for greedy decoding (docs/log.md).
    """
    bound, last = recipe.controller, recipe.controller.greedy_stage
    start = 1 - last.share if last is not None else 1.0
    if last is not None and share >= start:
        optimizer = bound.optimizer.model_copy(update={"lr": last.lr})
        return Stage(False, 0.0, last.nfe_penalty, optimizer, spent=(share - start) / last.share)
    trains_policy = recipe.train != "controller"
    penalty = recipe.objective.nfe_penalty if bound.objective == "shared" else bound.nfe_penalty
    return Stage(trains_policy, recipe.rollout.temperature, penalty, bound.optimizer, spent=share / start)


def collect_rollouts(recipe: RlRecipe, state: RlState, stage: Stage, step: int) -> Batch:
    """Draw the step's batch. Its problems and its random numbers depend on the seed and the step alone."""
    seed = derive_seed(recipe.seed, "problems", step)
    settings = recipe.rollout
    problems, too_long = draw_problems(state.task, "train", settings.prompts_per_step, seed)
    bounds = None
    if (speeds := settings.speeds) is not None:
        generator = generator_for(recipe.seed, "bounds", step)
        shape = (len(problems), settings.group_size)
        bounds = draw_bounds(shape, speeds, generator)
    batch = collect_batch(
        state.policy,
        state.task,
        problems,
        replace(state.decoding, temperature=stage.temperature),
        settings.group_size,
        state.token_incentive,
        replace(state.bound_incentive, nfe_penalty=stage.bound_nfe_penalty),
        generator_for(recipe.seed, "rollout", step),
        recipe.objective.scored_tokens,
        bounds,
    )
    return replace(batch, prompts_too_long=too_long)


def train_step(recipe: RlRecipe, state: RlState, stage: Stage, batch: Batch, step: int) -> dict[str, float]:
    """Update what the stage trains on this batch; return the metrics of both updates."""
    metrics: dict[str, float] = {}
    controller = state.policy.controller
    is_shared = recipe.controller.objective == "shared"
    shared = controller if is_shared and isinstance(controller, Controller) else None
    if stage.trains_policy:
        metrics |= train_policy(recipe, state, stage, batch, step, shared)
    if controller is not None:
        if shared is None:
            metrics |= _train_controller(controller, recipe, state, stage, batch, step)
        else:
            metrics |= bound_metrics(shared, batch)
        if isinstance(controller, Controller):
            controller.observe(batch.rollout.prompt_features, recipe.controller.momentum)
    return metrics


def _train_controller(
    controller: LearnedController, recipe: RlRecipe, state: RlState, stage: Stage, batch: Batch, step: int
) -> dict[str, float]:
    """Update a learned sampler that has a loss and an optimiser of its own; return its metrics."""
    optimizer, grad_clip = state.optimizers["controller"], recipe.controller.optimizer.grad_clip
    set_learning_rate(optimizer, stage.bound_optimizer, step, stage.spent)
    if isinstance(controller, CommitPolicy):
        return update_commit_policy(controller, batch, state.decoding.block_length, optimizer, grad_clip)
    return update_controller(controller, batch, optimizer, grad_clip)


def train_policy(
    recipe: RlRecipe, state: RlState, stage: Stage, batch: Batch, step: int, controller: Controller | None
) -> dict[str, float]:
    """Update the policy on this batch or, in expert iteration, on all right answers so far; return metrics.

    A controller that is given is trained in the same steps.
    """
    settings, optimizer, denoiser = recipe.objective, state.optimizers["policy"], state.policy.denoiser
    if isinstance(settings, ExpertIterationObjective):
        assert state.right_answers is not None
        state.right_answers.add(batch.rollout, batch.is_solved.flatten(), state.policy.tokenizer.eos_token_id)
        generator = generator_for(recipe.seed, "imitation", step)
        return imitate(denoiser, state.right_answers, settings, recipe.optimizer, optimizer, generator, stage.spent)
    assert state.objective is not None
    update = PolicyUpdate(
        estimator=state.estimator,
        objective=state.objective,
        loss_aggregation=settings.loss_aggregation,
        kl_coef=settings.kl_coef,
        kl_estimator=settings.kl_estimator,
        temperature=stage.temperature,
        num_iterations=settings.num_iterations,
        redraw=settings.redraw,
        micro_batch_size=settings.micro_batch_size,
        drop_zero_std_groups=settings.drop_zero_std_groups,
        drop_unsolved_groups=settings.drop_unsolved_groups,
        drop_same_speed_groups=settings.drop_same_speed_groups,
        right_nll_coef=settings.right_nll_coef,
        grad_clip=recipe.optimizer.grad_clip,
    )
    rate = set_learning_rate(optimizer, recipe.optimizer, step * settings.num_iterations, stage.spent)
    generator = generator_for(recipe.seed, "estimator", step)
    metrics = update_policy(denoiser, state.reference, batch, update, optimizer, generator, controller)
    return metrics | {"learning_rate": rate}


def summary(batch: Batch, speeds: SpeedsRecipe | None) -> dict[str, float]:
    """Return metrics of the rollouts; failures and what was left out only where there are any.

    With `speeds`, also those of slow and of quick completions.
    """
    counts = {"grader_failed": float(batch.grader_failed), "prompts_too_long": float(batch.prompts_too_long)}
    by_speed = {}
    if speeds is not None:
        rollout, is_solved = batch.rollout, batch.is_solved.flatten()
        by_speed = speed_metrics(rollout.entropy_bound, is_solved, rollout.nfe, speeds.middle)
    spread = batch.reward.std(dim=1, correction=min(1, batch.reward.shape[1] - 1))  # 0 for a single completion
    rollouts = {
        "reward": float(batch.reward.mean()),
        "reward_std": float(spread.mean()),
        "frac_reward_zero_std": float((spread == 0).float().mean()),
        "accuracy": float(batch.is_solved.float().mean()),
        "nfe": float(batch.rollout.nfe.float().mean()),
        "entropy": float(-batch.rollout.behaviour_logp[batch.is_scored].mean()),
        "completions/mean_length": float(batch.rollout.is_answer.sum(dim=1).float().mean()),
    }
    parts: dict[str, float] = {}
    for name, values in batch.reward_parts.items():
        given = values[~values.isnan()]  # of the others the reward has said that they are not for it
        if len(given):
            parts |= {f"{name}/mean": float(given.mean()), f"{name}/std": float(given.std(correction=0))}
    if current_process().world_size > 1:
        rollouts["idle_share"] = batch.idle_share
    return rollouts | parts | by_speed | {name: count for name, count in counts.items() if count}


def show_step(
    bar: ProgressBar, done: int, metrics: Mapping[str, float], batch: Batch, watch: Watch, policy: Policy
) -> None:
    """Show the figures of a step that matter most, and warn of what goes wrong."""
    bar.update(done, **{name: metrics[name] for name in SHOWN if name in metrics})
    if batch.grader_failed:
        bar.warn(
            GRADER_FAILED, grader_failed=batch.grader_failed, failure=printable(batch.first_failure) or "no reason"
        )
    if watch.has_learned_nothing(metrics, batch.reward.shape[1]):
        steps, completion = watch.quiet_steps, example(policy, batch)
        figures = {name: metrics[name] for name in ("reward", "accuracy")}
        bar.warn(cause(metrics), steps=steps, **figures, completion=completion)
    if "prompts_too_long" in metrics:
        bar.warn(PROMPTS_TOO_LONG, **metrics)
    if metrics.get("right_answers") == 0:
        bar.warn(NOTHING_RIGHT)
    if pushes_down(metrics):
        bar.warn(PUSHES_DOWN, **metrics)
