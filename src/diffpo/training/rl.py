"""Reinforcement learning of the policy, the sampler, or both. The loop is `run_rl`; read it from top to bottom."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import Stopped
from diffpo.core.randomness import derive_seed, generator_for
from diffpo.distributed.collectives import (
    all_gather_object,
    all_gather_rows,
    all_reduce_metrics,
    on_rank_zero,
    process_group,
    raise_on_all_ranks,
)
from diffpo.distributed.process import current_process, rank_slice, require_divisible
from diffpo.models.adapters import AdapterOffDenoiser, add_adapter
from diffpo.models.chat import encode_prompt
from diffpo.models.denoiser import CallCounter, ModelDenoiser
from diffpo.objective import PUSHES_DOWN, pushes_down
from diffpo.recipes.parts import ADVANTAGES, estimator_of, objective_of, rule_of, task_of
from diffpo.recipes.tables import AdamRecipe, RlRecipe, base_bits
from diffpo.recipes.tasks import checked_task
from diffpo.runs.checkpoint import Progress, load, load_base, restore_optimizers, save_checkpoint
from diffpo.runs.device import configure_model_, resolve_device
from diffpo.runs.memory_check import check_memory
from diffpo.runs.optimizer import Optimizer, adam, policy_optimizer, set_learning_rate
from diffpo.runs.progress import Progress as Bar
from diffpo.runs.prompt_filter import PROMPTS_TOO_LONG, draw_problems, filter_long_prompts
from diffpo.runs.run_dir import Run, interruptible, open_run
from diffpo.sampling.controller import Controller
from diffpo.tasks.base import Task
from diffpo.training.rollouts import Batch, Decoding, collect, first_call_entropy
from diffpo.training.update import ControllerUpdate, PolicyUpdate, update_controller, update_policy

CALIBRATION_PROBLEMS = 256


GRADER_FAILED = "the grader failed on {grader_failed:g} completions of a step, which earned 0: look at their problems"


@dataclass(frozen=True)
class Learner:
    """What a run trains, and what it needs beside it."""

    denoiser: ModelDenoiser
    tokenizer: PreTrainedTokenizerFast
    controller: Controller | None
    optimizers: dict[str, Optimizer]
    base: ModelDenoiser | None
    """The frozen start, where a KL term holds on to it or the objective's target is made of it."""
    task: Task
    decoding: Decoding

    @property
    def usage(self) -> CallCounter:
        """What the policy and the base have been shown by all processes, backward passes not counted."""
        tallies = [denoiser.usage for denoiser in (self.denoiser, self.base) if denoiser is not None]
        canvases, tokens = sum(tally.canvases for tally in tallies), sum(tally.tokens for tally in tallies)
        return CallCounter(**all_reduce_metrics({"canvases": canvases, "tokens": tokens}))


@dataclass(frozen=True)
class Stage:
    """What a step of a run does: a joint run may end with a stage in which the policy rests and the sampler settles."""

    trains_policy: bool
    temperature: float
    """Of its rollouts."""
    bound_nfe_penalty: float
    bound_optimizer: AdamRecipe
    spent: float
    """Share of the stage's part of the budget that is gone."""


Loaded = tuple[ModelDenoiser, PreTrainedTokenizerFast, Controller | None]
OnStep = Callable[[Learner, int, int, float], None]
"""Looks at the learner after a step: how many are done, the denoiser calls so far, the share of the budget spent."""


@process_group()
def run_rl(recipe: RlRecipe, out: Path, resume: bool = False, watch: OnStep | None = None) -> None:
    """Train from the recipe into `out`: a JSON line per step, checkpoints, the finished model as the last of them.

    `watch` is called before the step's checkpoint is written: a step it has not seen to its end comes again.
    Raises NonFiniteLossError when a loss is not a number; the last whole checkpoint stays.
    """
    # A task out of range or without data, a base that is not there, and completions without room in memory are said
    # before the run's folder is made.
    require_divisible("rollout.prompts_per_step", recipe.rollout.prompts_per_step)
    with raise_on_all_ranks():
        task = checked_task(recipe.task, "train")
        start = load_base(recipe.base, *resolve_device(recipe), base_bits(recipe))
        check_rollouts(recipe, task, start)
    run = on_rank_zero(open_run, out, recipe, resume)
    with raise_on_all_ranks():
        learner = prepare(recipe, run, start)
    del start  # a run that goes on may have no use for it, and it is large
    if run.progress.step == 0 and learner.controller is not None:
        calibrate(recipe, learner, learner.controller)
    begun = run.progress
    step, calls = begun.step, begun.denoiser_calls + learner.usage.canvases

    with (
        Bar(f"rl {out.name}", recipe.budget.steps or recipe.budget.denoiser_calls or 0) as bar,
        interruptible() as stop,
    ):
        while (share := spent(recipe, step, calls)) < 1:
            started = time.perf_counter()
            stage = stage_at(recipe, share)
            before = learner.usage.tokens
            batch = collect_rollouts(recipe, learner, stage, step)
            between = learner.usage.tokens
            metrics = summary(batch) | train_step(recipe, learner, stage, batch, step)
            metrics |= {"rollout_tokens": between - before, "update_tokens": learner.usage.tokens - between}
            step, calls = step + 1, begun.denoiser_calls + learner.usage.canvases
            metrics |= {"denoiser_calls": calls, "seconds": time.perf_counter() - started}
            on_rank_zero(run.log, step, metrics)
            bar.update(step if recipe.budget.steps else calls, **headlines(metrics))
            if "grader_failed" in metrics:
                bar.warn(GRADER_FAILED, **metrics)
            if "prompts_too_long" in metrics:
                bar.warn(PROMPTS_TOO_LONG, **metrics)
            if pushes_down(metrics):
                bar.warn(PUSHES_DOWN, **metrics)
            if watch is not None:
                watch(learner, step, calls, spent(recipe, step, calls))
            is_stopped = any(all_gather_object(stop.requested))
            if is_stopped or step % recipe.checkpoint.every == 0 or spent(recipe, step, calls) == 1:
                on_rank_zero(
                    save_checkpoint,
                    out,
                    Progress(step, calls),
                    learner.denoiser,
                    learner.tokenizer,
                    learner.controller,
                    learner.optimizers,
                    recipe.checkpoint.keep,
                )
            if is_stopped and spent(recipe, step, calls) < 1:
                raise Stopped(f"stopped at step {step}; go on with the same command and --resume")


def check_rollouts(recipe: RlRecipe, task: Task, start: Loaded) -> None:
    """Raises UserError where no prompt fits the model, or the completions in flight do not fit beside it."""
    denoiser, tokenizer, _ = start
    (problem,) = filter_long_prompts(task, recipe.task, denoiser.model.config, tokenizer).problems("train", 1, seed=0)
    settings = recipe.rollout
    rows = settings.prompts_per_step * settings.group_size // current_process().world_size
    check_memory(
        denoiser,
        min(rows, settings.max_in_flight or rows),
        prompt_tokens=len(encode_prompt(tokenizer, problem.prompt)),
        length=task.completion_length,
        block_length=settings.block_length or task.completion_length,
        has_cache=settings.cache != "none",
        option="rollout.max_in_flight",
    )


def prepare(recipe: RlRecipe, run: Run, start: Loaded) -> Learner:
    """Models, controller and optimisers as they stood at the run's checkpoint, or as `start` has them."""
    if run.checkpoint:
        denoiser, tokenizer, controller = load(run.checkpoint, *resolve_device(recipe), base_bits(recipe))
    else:
        denoiser, tokenizer, controller = start
    task = filter_long_prompts(task_of(recipe.task), recipe.task, denoiser.model.config, tokenizer)
    configure_model_(denoiser, recipe)
    if recipe.lora is not None and run.checkpoint is None:
        add_adapter(denoiser, recipe.lora.rank, recipe.lora.alpha, derive_seed(recipe.seed, "adapter"))
    base = reference(recipe, denoiser, start[0])
    if recipe.train == "policy":
        controller = None
    elif run.checkpoint is None:
        controller = new_controller(recipe)
    optimizers: dict[str, Optimizer] = {}
    if recipe.train != "controller":
        optimizers["policy"] = policy_optimizer(denoiser.model, recipe.optimizer)
    if controller is not None:
        optimizers["controller"] = adam(controller.parameters(), recipe.controller.optimizer)
    if run.checkpoint:
        restore_optimizers(run.checkpoint, optimizers)
    decoding = Decoding(
        rule=rule_of(recipe.rollout.rule),
        length=task.completion_length,
        block_length=recipe.rollout.block_length or task.completion_length,
        controller=controller,
        explore=controller is not None,
        max_in_flight=recipe.rollout.max_in_flight,
        cache=recipe.rollout.cache,
    )
    return Learner(denoiser, tokenizer, controller, optimizers, base, task, decoding)


def reference(recipe: RlRecipe, denoiser: ModelDenoiser, start: ModelDenoiser) -> ModelDenoiser | None:
    """What a KL term or the objective's target holds on to; it is one more model only where there must be one."""
    if recipe.train == "controller" or (
        recipe.objective.kl_coef == 0 and objective_of(recipe.objective).requires == "none"
    ):
        return None
    if recipe.lora is not None:
        return AdapterOffDenoiser.of(denoiser)
    return configure_model_(load_base(recipe.base, *resolve_device(recipe))[0] if denoiser is start else start, recipe)


def new_controller(recipe: RlRecipe) -> Controller:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "controller"))
        settings = recipe.controller
        return Controller(settings.initial_bound, settings.initial_spread, settings.hidden)


def calibrate(recipe: RlRecipe, learner: Learner, controller: Controller) -> None:
    """Give the controller's standardisation its first statistics: one call for each of some training prompts."""
    problems = learner.task.problems("train", CALIBRATION_PROBLEMS, derive_seed(recipe.seed, "calibration"))
    length, share = learner.decoding.length, rank_slice(len(problems))
    entropies = all_gather_rows(first_call_entropy(learner.denoiser, learner.tokenizer, problems, length, share))
    controller.observe(controller.features(entropies), momentum=1.0)


def stage_at(recipe: RlRecipe, share: float) -> Stage:
    """The stage that a run is in when `share` of its budget is gone.

    Settling rollouts are greedy, as at evaluation. A sampled rollout fails by its noise whatever the bound, so it
    teaches bounds that are too large for greedy decoding (docs/log.md).
    """
    bound, greedy_stage = recipe.controller, recipe.controller.greedy_stage
    start = 1 - greedy_stage.share if greedy_stage is not None else 1.0
    if greedy_stage is not None and share >= start:
        optimizer = bound.optimizer.model_copy(update={"lr": greedy_stage.lr})
        return Stage(False, 0.0, greedy_stage.nfe_penalty, optimizer, spent=(share - start) / greedy_stage.share)
    is_sampler_only = recipe.train == "controller"
    return Stage(
        not is_sampler_only, recipe.rollout.temperature, bound.nfe_penalty, bound.optimizer, spent=share / start
    )


def collect_rollouts(recipe: RlRecipe, learner: Learner, stage: Stage, step: int) -> Batch:
    """The step's batch: its problems and its randomness depend on the seed and the step alone."""
    seed = derive_seed(recipe.seed, "problems", step)
    problems, too_long = draw_problems(learner.task, "train", recipe.rollout.prompts_per_step, seed)
    batch = collect(
        learner.denoiser,
        learner.tokenizer,
        learner.task,
        problems,
        replace(learner.decoding, temperature=stage.temperature),
        group=recipe.rollout.group_size,
        nfe_penalty=recipe.objective.nfe_penalty,
        bound_nfe_penalty=stage.bound_nfe_penalty,
        advantage=ADVANTAGES[recipe.objective.advantage],
        bound_advantage=ADVANTAGES[recipe.controller.advantage],
        generator=generator_for(recipe.seed, "rollout", step),
    )
    return replace(batch, prompts_too_long=too_long)


def train_step(recipe: RlRecipe, learner: Learner, stage: Stage, batch: Batch, step: int) -> dict[str, float]:
    """Update what the stage trains on this batch; the metrics of both updates."""
    metrics: dict[str, float] = {}
    if stage.trains_policy:
        policy = learner.optimizers["policy"]
        settings = recipe.objective
        update = PolicyUpdate(
            estimator=estimator_of(recipe.estimator),
            objective=objective_of(settings),
            loss_aggregation=settings.loss_aggregation,
            kl_coef=settings.kl_coef,
            kl_estimator=settings.kl_estimator,
            temperature=stage.temperature,
            num_iterations=settings.num_iterations,
            micro_batch_size=settings.micro_batch_size,
            drop_zero_std_groups=settings.drop_zero_std_groups,
            grad_clip=recipe.optimizer.grad_clip,
        )
        set_learning_rate(policy, recipe.optimizer, step * settings.num_iterations, stage.spent)
        draw = generator_for(recipe.seed, "estimator", step)
        metrics |= update_policy(learner.denoiser, learner.base, batch, update, policy, draw)
    if learner.controller is not None:
        bound = recipe.controller
        optimizer = learner.optimizers["controller"]
        set_learning_rate(optimizer, stage.bound_optimizer, step, stage.spent)
        controller_update = ControllerUpdate(bound.coef, bound.clip, bound.optimizer.grad_clip)
        metrics |= update_controller(learner.controller, batch, controller_update, optimizer)
        learner.controller.observe(batch.rollout.prompt_features, bound.momentum)
    return metrics


def summary(batch: Batch) -> dict[str, float]:
    """What the rollouts were like; failures and what was left out only where there are any."""
    counts = {"grader_failed": float(batch.grader_failed), "prompts_too_long": float(batch.prompts_too_long)}
    return {
        "reward": float(batch.reward.mean()),
        "reward_std": float(batch.reward.std(dim=1).mean()),
        "frac_reward_zero_std": float((batch.reward.std(dim=1) == 0).float().mean()),
        "solved": float(batch.is_solved.float().mean()),
        "nfe": float(batch.rollout.nfe.float().mean()),
    } | {name: count for name, count in counts.items() if count}


def headlines(metrics: Mapping[str, float]) -> dict[str, float]:
    """What fits beside a bar: all but what is counted by quarters of a rollout."""
    return {name: value for name, value in metrics.items() if not name[-1].isdigit()}


def spent(recipe: RlRecipe, step: int, calls: int) -> float:
    """Share of the budget that is gone, from 0 to 1, by the limit that is nearest."""
    limits = ((step, recipe.budget.steps), (calls, recipe.budget.denoiser_calls))
    return min(1.0, max(done / limit for done, limit in limits if limit is not None))
