"""Everything before the first step of an RL run: checks, models, optimisers, parts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh

from diffpo.core.errors import UserError
from diffpo.core.randomness import derive_seed
from diffpo.distributed.collectives import (
    all_gather_rows,
    all_reduce_metrics,
    object_of_rank_zero,
    on_rank_zero,
    raise_on_all_ranks,
)
from diffpo.distributed.process import current_process, rank_slice, require_divisible
from diffpo.distributed.sharding import gathered
from diffpo.likelihood import Estimator
from diffpo.models.adapters import AdapterOffDenoiser, add_adapter
from diffpo.models.chat import encode_prompt
from diffpo.models.denoiser import CallCounter, ModelDenoiser
from diffpo.models.fingerprint import fingerprint
from diffpo.models.model_paths import model_folder
from diffpo.objective.base import Objective
from diffpo.recipes.parts import (
    build_advantage,
    build_estimator,
    build_objective,
    build_rule,
    build_task,
    needs_reference,
)
from diffpo.recipes.tables import ExpertIterationObjective, RlRecipe, base_bits
from diffpo.recipes.tasks import checked_task
from diffpo.runs.agreement import require_same_inputs, require_shared_folder
from diffpo.runs.device import configure_model_, configure_torch_, resolve_device
from diffpo.runs.memory_check import check_memory
from diffpo.runs.optimizer import Optimizer, adam, policy_optimizer
from diffpo.runs.parallel import mesh_of, shard_model_
from diffpo.runs.prompt_filter import LOOKED_AT, filter_long_prompts
from diffpo.runs.resume import HasState, restore
from diffpo.runs.run_dir import Run, check_base, open_run
from diffpo.runs.run_lock import RunLock
from diffpo.sampling.answering import first_call_features
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.controller import NUM_FEATURES, Controller
from diffpo.sampling.controller_files import LearnedController
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy, load_base, load_folder
from diffpo.tasks.base import Task
from diffpo.training.right_answers import RightAnswers
from diffpo.training.rollouts import Incentive
from diffpo.training.warm_start import demonstrate, imitate_

CALIBRATION_PROBLEMS = 256
CALIBRATION_LOGITS = 2**28
"""How many logits exist at a time while a controller is calibrated: 1 GiB."""

AdaptTask = Callable[[Task], Task]


@dataclass(frozen=True)
class RlState:
    """The objects that a run trains and uses. Parts are built once."""

    policy: Policy
    reference: ModelDenoiser | None
    """The frozen start, where a KL term or the objective's target needs it."""
    optimizers: dict[str, Optimizer]
    """`policy` and `controller`, where they are trained; one for both where they share it."""
    task: Task
    decoding: Decoding
    estimator: Estimator
    objective: Objective | None
    """None in expert iteration, which has `right_answers` instead."""
    right_answers: RightAnswers | None
    token_incentive: Incentive
    bound_incentive: Incentive
    base: str
    """Fingerprint of the model that the run started from."""

    @property
    def to_restore(self) -> dict[str, HasState]:
        """What a checkpoint holds besides the models, by name."""
        return {**self.optimizers, **({} if self.right_answers is None else {"right_answers": self.right_answers})}

    def total_usage(self) -> CallCounter:
        """Add up the forward passes of the policy and the reference in all processes; each of them must call this."""
        denoisers = [denoiser for denoiser in (self.policy.denoiser, self.reference) if denoiser is not None]
        canvases = sum(denoiser.usage.canvases for denoiser in denoisers)
        tokens = sum(denoiser.usage.tokens for denoiser in denoisers)
        return CallCounter(**all_reduce_metrics({"canvases": canvases, "tokens": tokens}))


def open_rl_run(recipe: RlRecipe, run: Run, lock: RunLock, adapt_task: AdaptTask | None = None) -> RlState:
    """Check the task, the base and the memory, make or reopen the run's folder, and load what it trains.

    Raises UserError, before anything is written, for what is wrong with any of them.
    """
    require_divisible("rollout.prompts_per_step", recipe.rollout.prompts_per_step)
    with raise_on_all_ranks():
        task = checked_task(recipe.task, "train")
        configure_torch_(recipe)
        start = load_base(recipe.base, *resolve_device(recipe), base_bits(recipe))
        check_rollouts(recipe, task, start)
        check_base(run, recipe.base)
    require_same_inputs(task, recipe.base)
    on_rank_zero(open_run, run, recipe, lock)
    require_shared_folder(run.path)
    mesh = mesh_of(start.denoiser, recipe)
    with raise_on_all_ranks():
        state = prepare(recipe, run, start, adapt_task, mesh)
    if run.progress.step == 0 and isinstance(state.policy.controller, Controller):
        calibrate_(recipe, state, state.policy.controller)
    if run.progress.step == 0 and isinstance(state.policy.controller, CommitPolicy):
        warm_start_(recipe, state, state.policy.controller)
    return state


def check_rollouts(recipe: RlRecipe, task: Task, start: Policy) -> None:
    """Raise UserError where no prompt fits the model, or the completions in flight do not fit into memory."""
    filtered = filter_long_prompts(task, recipe.task, start.denoiser.model.config, start.tokenizer)
    problem = filtered.problems("train", LOOKED_AT, seed=0)[0]
    settings = recipe.rollout
    rows = settings.prompts_per_step * settings.group_size // current_process().world_size
    check_memory(
        start.denoiser,
        min(rows, settings.max_in_flight or rows),
        prompt_tokens=len(encode_prompt(start.tokenizer, problem.conversation)),
        length=task.completion_length,
        block_length=settings.block_length or task.completion_length,
        has_cache=settings.cache != "none",
        option="rollout.max_in_flight",
    )


def prepare(
    recipe: RlRecipe,
    run: Run,
    start: Policy,
    adapt_task: AdaptTask | None = None,
    mesh: DeviceMesh | None = None,
) -> RlState:
    """Return models, controller and optimisers as they stood at the run's checkpoint, or as `start` has them."""
    policy = start
    if run.checkpoint:
        policy = load_folder(run.checkpoint, *resolve_device(recipe), base_bits(recipe), recipe.base)
    denoiser, tokenizer = policy.denoiser, policy.tokenizer
    task = build_task(recipe.task)
    task = task if adapt_task is None else adapt_task(task)
    task = filter_long_prompts(task, recipe.task, denoiser.model.config, tokenizer)
    configure_model_(denoiser, recipe)
    if recipe.lora is not None and run.checkpoint is None:
        add_adapter(denoiser, recipe.lora.rank, recipe.lora.alpha, derive_seed(recipe.seed, "adapter"))
    objective = right_answers = reference = None
    if isinstance(recipe.objective, ExpertIterationObjective):
        right_answers = RightAnswers(task.completion_length, recipe.objective.capacity)
    else:
        objective = build_objective(recipe.objective)
        if recipe.train != "controller" and needs_reference(recipe.objective, objective):
            reference = make_reference(recipe, denoiser, start.denoiser, mesh)
    if recipe.train == "controller":
        denoiser.model.requires_grad_(False)
    shard_model_(denoiser, mesh)
    controller = policy.controller
    if recipe.train == "policy":
        controller = None
    elif run.checkpoint is None:
        controller = new_controller(recipe, denoiser)
    elif controller is None:
        raise UserError(
            f"{run.checkpoint} has no controller, and train = '{recipe.train}' goes on with one; without it this would "
            "be another run; bring its files back, or remove the checkpoint to go on before it"
        )
    optimizers = make_optimizers(recipe, denoiser, controller)
    token_incentive = Incentive(
        recipe.objective.nfe_penalty, build_advantage(recipe.objective.advantage), recipe.objective.speed_coef
    )
    # Without a controller nothing looks at the credit of bounds, and that of a single completion may not exist.
    has_own_loss = recipe.train != "policy" and recipe.controller.objective == "own"
    bound_incentive = Incentive(recipe.controller.nfe_penalty, build_advantage(recipe.controller.advantage))
    settings = recipe.rollout
    state = RlState(
        policy=replace(policy, controller=controller, sampler=None),  # it belongs to the model as it was
        reference=reference,
        optimizers=optimizers,
        task=task,
        decoding=Decoding(
            rule=build_rule(settings.rule),
            length=task.completion_length,
            block_length=settings.block_length or task.completion_length,
            controller=controller,
            explore=controller is not None,
            max_in_flight=settings.max_in_flight,
            cache=settings.cache,
        ),
        estimator=build_estimator(recipe.estimator),
        objective=objective,
        right_answers=right_answers,
        token_incentive=token_incentive,
        bound_incentive=bound_incentive if has_own_loss else token_incentive,
        base=fingerprint(model_folder(Path(recipe.base))),
    )
    if run.checkpoint:
        restore(run.checkpoint, state.to_restore, denoiser.model)
    return state


def make_reference(
    recipe: RlRecipe, denoiser: ModelDenoiser, start: ModelDenoiser, mesh: DeviceMesh | None = None
) -> ModelDenoiser:
    """Return the reference of a KL term or of the objective's target: with an adapter the model under it, else one
    more model."""
    if recipe.lora is not None:
        return AdapterOffDenoiser.of(denoiser)
    is_start = denoiser is start
    own = load_base(recipe.base, *resolve_device(recipe)).denoiser if is_start else start
    configure_model_(own, recipe).model.requires_grad_(False)
    shard_model_(own, mesh)
    return own


def make_optimizers(
    recipe: RlRecipe, denoiser: ModelDenoiser, controller: LearnedController | None
) -> dict[str, Optimizer]:
    optimizers: dict[str, Optimizer] = {}
    is_shared = controller is not None and recipe.controller.objective == "shared"
    if recipe.train != "controller":
        others = controller.parameters() if controller is not None and is_shared else ()
        optimizers["policy"] = policy_optimizer(denoiser.model, recipe.optimizer, others)
    if controller is not None and not is_shared:
        optimizers["controller"] = adam(controller.parameters(), recipe.controller.optimizer)
    return optimizers


def new_controller(recipe: RlRecipe, denoiser: ModelDenoiser) -> LearnedController:
    """Return a learned sampler as the recipe describes it, for the model's width where it looks at hidden states."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "controller"))
        settings = recipe.controller
        width = denoiser.model.get_output_embeddings().weight.shape[1]
        if settings.kind != "entropy-bound":
            num_inputs = width if settings.kind == "planner" else 1
            made = CommitPolicy(settings.kind, num_inputs, settings.hidden, settings.initial_probability)
            return made.to(denoiser.model.device)
        return Controller(
            settings.initial_bound,
            settings.initial_spread,
            settings.hidden,
            settings.features,
            width if settings.features == "hidden" else NUM_FEATURES,
            settings.bounds or (),
        ).to(denoiser.model.device)


def calibrate_(recipe: RlRecipe, state: RlState, controller: Controller) -> None:
    """Give the controller's standardisation its first statistics: one denoiser call for each of some train problems."""
    problems = state.task.problems("train", CALIBRATION_PROBLEMS, derive_seed(recipe.seed, "calibration"))
    own, length = rank_slice(len(problems)), state.decoding.length
    vocabulary = state.policy.denoiser.model.get_input_embeddings().num_embeddings
    at_a_time = max(1, CALIBRATION_LOGITS // (length * vocabulary))
    starts = range(own.start, max(own.stop, own.start + 1), at_a_time)  # a rank without problems has no rows to send
    with gathered(state.policy.denoiser.model):
        features = [
            first_call_features(
                state.policy, controller, problems, length, slice(start, min(start + at_a_time, own.stop))
            )
            for start in starts
        ]
    controller.observe(all_gather_rows(torch.cat(features)), momentum=1.0)


def warm_start_(recipe: RlRecipe, state: RlState, controller: CommitPolicy) -> None:
    """Let a commit policy imitate a confidence threshold on some train problems, where the recipe says so.

    One process decodes them for all: hundreds of Adam steps would make something of how slices of a batch are rounded.
    """
    settings = recipe.controller.warm_start
    if settings is None:
        return
    problems = state.task.problems("train", settings.count, derive_seed(recipe.seed, "warm start problems"))
    with gathered(state.policy.denoiser.model):
        shown = object_of_rank_zero(
            demonstrate, state.policy, controller.kind, problems, state.decoding, settings.threshold
        )
    imitate_(controller, shown, settings.steps, settings.lr, recipe.seed)
