"""Fit a learned sampler to a denoiser, and measure it beside fixed rules, so that prices can choose among them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diffpo.core.errors import NonFiniteLossError, UserError
from diffpo.core.files import check_writable
from diffpo.core.randomness import derive_seed, generator_for
from diffpo.distributed.process import require_single_process
from diffpo.evaluation.loop import evaluate_decodings
from diffpo.evaluation.validated import PRICES
from diffpo.models.chat import encode_prompt
from diffpo.models.model_paths import checkpoints
from diffpo.recipes.parts import build_task
from diffpo.recipes.stored import fitted_task
from diffpo.recipes.tables import SamplerRecipe
from diffpo.runs.checkpoint import begin_checkpoint, complete
from diffpo.runs.device import configure_model_, configure_torch_, resolve_device
from diffpo.runs.memory_check import check_memory
from diffpo.runs.progress import ProgressBar
from diffpo.runs.prompt_filter import draw_problems, filter_long_prompts
from diffpo.runs.resume import RunProgress
from diffpo.runs.run_dir import Run, hold_new_folder, open_run
from diffpo.runs.run_lock import RunLock
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy, load
from diffpo.sampling.prices import Candidate, Family, PricedSampler
from diffpo.sampling.risk import RiskModel
from diffpo.tasks.base import Problem, Task
from diffpo.training.risk_data import Haste, RiskData, collect_states, concatenate
from diffpo.training.risk_fit import FitSettings, fit_risk


def run_fit_sampler(recipe: SamplerRecipe, out: Path) -> str:
    """Fit a sampler to the recipe's denoiser; write the model with it into `out`, and return a table of its prices.

    A controller that the model has is left out. The folder is made at once, and the model written when all is done.
    Raises UserError for what is wrong with the model, its task or the folder.
    """
    require_single_process("fitting a sampler")
    task_recipe = fitted_task(recipe)
    check_writable(out, is_folder=True)
    configure_torch_(recipe)
    policy = replace(load(recipe.base, *resolve_device(recipe)).with_new_counter(), controller=None, sampler=None)
    configure_model_(policy.denoiser, recipe)
    task = filter_long_prompts(build_task(task_recipe), task_recipe, policy.denoiser.model.config, policy.tokenizer)
    validation = checked_problems(recipe, policy, task)
    with RunLock(out) as lock:
        hold_new_folder(out, lock)
        states, calls = collect(recipe, policy, task, out.name)
        model, metrics = fitted_model(recipe, policy, states)
        candidates = measure(recipe, policy, task, model, validation, out.name)
        sampler = PricedSampler(model, candidates, task.completion_length, recipe.block_length)
        run = Run(out, None)
        open_run(run, recipe.model_copy(update={"task": task_recipe}), lock)
        progress = RunProgress(recipe.fit.steps, policy.denoiser.usage.canvases, is_finished=True)
        complete(begin_checkpoint(out, progress, replace(policy, sampler=sampler), {}, keep=1))
        run.log(recipe.fit.steps, metrics | {"denoiser_calls": calls})
    return f"{price_table(sampler)}\nwrote {checkpoints(out)[-1]}"


def checked_problems(recipe: SamplerRecipe, policy: Policy, task: Task) -> list[Problem]:
    """Return the validation problems.

    Raises UserError where train problems are all alike, so that none can be held out, and where decoding takes more
    memory than there is.
    """
    train = train_problems(recipe, task, 0)
    if len({problem.cluster for problem in train}) < 2:
        raise UserError(
            f"the first {len(train)} train problems of {task.name} are all alike, and some are held out while fitting; "
            "use a task with more problems, or raise states.batch"
        )
    seed = derive_seed(recipe.seed, "validation")
    validation, _ = draw_problems(task, "validation", recipe.validation_count, seed)
    most = max(recipe.states.batch, recipe.validation_batch)
    check_memory(
        policy.denoiser,
        min(recipe.max_in_flight or most, most),
        prompt_tokens=max(
            len(encode_prompt(policy.tokenizer, problem.conversation)) for problem in (*train, *validation)
        ),
        length=task.completion_length,
        block_length=recipe.block_length or task.completion_length,
        has_cache=False,
        option="max_in_flight",
    )
    return validation


def train_problems(recipe: SamplerRecipe, task: Task, batch: int) -> list[Problem]:
    return draw_problems(task, "train", recipe.states.batch, derive_seed(recipe.seed, "states", batch))[0]


@dataclass(frozen=True)
class States:
    """Labelled states of decodings, and the cluster of each decoding's problem."""

    data: RiskData
    clusters: tuple[str, ...]

    def split(self, share: float) -> tuple[RiskData, RiskData]:
        """Return the states to learn from, and those of about that share of the clusters, at least one."""
        names = list(dict.fromkeys(self.clusters))
        held_out = set(names[: min(max(1, round(share * len(names))), len(names) - 1)])
        is_held_out = torch.tensor([cluster in held_out for cluster in self.clusters])[self.data.row]
        return self.data.rows(~is_held_out), self.data.rows(is_held_out)


def collect(recipe: SamplerRecipe, policy: Policy, task: Task, name: str) -> tuple[States, int]:
    """Return the states of one batch of train problems after the other, and the denoiser calls that they took."""
    settings, parts, clusters = recipe.states, list[RiskData](), list[str]()
    usage = policy.denoiser.usage
    with ProgressBar(f"sampler {name}: states", settings.denoiser_calls, unit="denoiser call") as bar:
        while usage.canvases < settings.denoiser_calls:
            problems = train_problems(recipe, task, len(parts))
            states, solved = collect_states(
                policy,
                task,
                problems,
                recipe.block_length or task.completion_length,
                recipe.max_in_flight,
                Haste(settings.low, settings.high, settings.fresh),
                settings.per_completion,
                generator_for(recipe.seed, "haste", len(parts)),
            )
            parts.append(replace(states, row=states.row + len(clusters)))
            clusters += [problem.cluster for problem in problems]
            bar.update(min(usage.canvases, settings.denoiser_calls), accuracy=solved)
    return States(concatenate(parts), tuple(clusters)), usage.canvases


def fitted_model(recipe: SamplerRecipe, policy: Policy, states: States) -> tuple[RiskModel, dict[str, float]]:
    """Return a risk model that was fitted to the states, and metrics."""
    fit = recipe.fit
    train, held_out = states.split(fit.held_out)
    if not len(train) or not len(held_out):
        raise UserError(
            f"{len(train)} states are left to learn from and {len(held_out)} held out; raise states.denoiser_calls or "
            "states.per_completion"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "risk"))
        model = RiskModel(train.hidden.shape[2], fit.width).to(policy.device)
    settings = FitSettings(fit.steps, fit.batch, fit.lr, fit.weight_decay)
    try:
        metrics = fit_risk(model, train, held_out, settings, recipe.seed)
    except NonFiniteLossError as error:
        told = f"fitting the sampler at fit.lr {fit.lr:g} ended in a loss that is no number; lower it"
        raise UserError(told) from error
    return model.eval(), metrics


def measure(
    recipe: SamplerRecipe, policy: Policy, task: Task, model: RiskModel, problems: Sequence[Problem], name: str
) -> tuple[Candidate, ...]:
    """Return accuracy and denoiser calls of the fixed rules and of the model's, at all of their bounds."""
    bounds: dict[Family, tuple[float, ...]] = {
        "entropy-bound": recipe.bounds,
        "plain-sum": recipe.bounds,
        "commit-risk": recipe.risk_bounds,
    }
    unmeasured = [Candidate(family, bound, 0.0, 0.0) for family, values in bounds.items() for bound in values]
    sampler = PricedSampler(model, tuple(unmeasured), task.completion_length, recipe.block_length)
    decodings = {
        candidate.name: Decoding(
            sampler.rule(candidate),
            task.completion_length,
            recipe.block_length or task.completion_length,
            max_in_flight=recipe.max_in_flight,
        )
        for candidate in unmeasured
    }
    with ProgressBar(f"sampler {name}: prices", len(problems) * len(unmeasured), unit="completion") as bar:
        outcomes = evaluate_decodings(
            policy, task, problems, decodings, recipe.validation_batch, on_progress=bar.update
        )
    return tuple(
        replace(candidate, accuracy=float(outcome.is_solved.mean()), nfe=float(outcome.nfe.mean()))
        for candidate, outcome in zip(unmeasured, outcomes, strict=True)
    )


def price_table(sampler: PricedSampler) -> str:
    """Return a line for each of PRICES: the rule that it chooses, and what that achieved on validation problems."""
    chosen = [(price, sampler.best(price)) for price in PRICES]
    return "\n".join(
        f"price {price:<5g} {best.name:24s} accuracy {best.accuracy:.3f}  NFE {best.nfe:.3f}  (validation)"
        for price, best in chosen
    )
