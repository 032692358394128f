"""Fit a learned sampler to a denoiser, and measure it beside fixed rules, so that prices can choose among them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from diffpo.core.errors import UserError
from diffpo.core.randomness import derive_seed, generator_for
from diffpo.distributed.process import require_single_process
from diffpo.evaluation.loop import evaluate
from diffpo.evaluation.validated import PRICES
from diffpo.recipes.parts import build_task
from diffpo.recipes.stored import fitted_task
from diffpo.recipes.tables import SamplerRecipe
from diffpo.runs.checkpoint import RunProgress, save_checkpoint
from diffpo.runs.device import configure_model_, configure_torch_, resolve_device
from diffpo.runs.progress import ProgressBar
from diffpo.runs.prompt_filter import draw_problems, filter_long_prompts
from diffpo.runs.run_dir import Run, open_run
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy, load
from diffpo.sampling.prices import Candidate, Family, PricedSampler
from diffpo.sampling.risk import RiskModel
from diffpo.tasks.base import Problem, Task
from diffpo.training.risk_data import Haste, RiskData, collect_states, concatenate
from diffpo.training.risk_fit import FitSettings, fit_risk


def run_fit_sampler(recipe: SamplerRecipe, out: Path) -> str:
    """Fit a sampler to the recipe's denoiser; write the model with it into `out`, and return a table of its prices.

    Raises UserError, before anything is written, for what is wrong with the model, its task or the folder.
    """
    require_single_process("fitting a sampler")
    task_recipe = fitted_task(recipe)
    configure_torch_(recipe)
    policy = replace(load(recipe.base, *resolve_device(recipe)).with_new_counter(), controller=None, sampler=None)
    configure_model_(policy.denoiser, recipe)
    task = filter_long_prompts(build_task(task_recipe), task_recipe, policy.denoiser.model.config, policy.tokenizer)
    run = open_run(out, recipe.model_copy(update={"task": task_recipe}), resume=False)
    model = fitted_model(recipe, policy, task, run)
    validation = draw_problems(task, "validation", recipe.validation_count, derive_seed(recipe.seed, "validation"))[0]
    sampler = PricedSampler(model, measure(recipe, policy, task, model, validation, out.name), task.completion_length)
    progress = RunProgress(recipe.fit.steps, policy.denoiser.usage.canvases, is_finished=True)
    saved = save_checkpoint(out, progress, replace(policy, sampler=sampler), {}, keep=1)
    return f"{price_table(sampler)}\nwrote {saved}"


def fitted_model(recipe: SamplerRecipe, policy: Policy, task: Task, run: Run) -> RiskModel:
    """Collect states within the budget of denoiser calls, and fit a risk model to them."""
    parts, calls = collect(recipe, policy, task, run.path.name)
    num_held_out = max(1, round(recipe.fit.held_out * len(parts)))
    if len(parts) <= num_held_out:
        raise UserError(
            f"states.denoiser_calls = {recipe.states.denoiser_calls} is spent after {len(parts)} batch of problems, "
            f"and some are held out; raise it, or lower states.batch = {recipe.states.batch}"
        )
    train, held_out = concatenate(parts[num_held_out:]), concatenate(parts[:num_held_out])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "risk"))
        model = RiskModel(train.hidden.shape[2], recipe.fit.width).to(policy.device)
    fit = recipe.fit
    metrics = fit_risk(model, train, held_out, FitSettings(fit.steps, fit.batch, fit.lr, fit.weight_decay), recipe.seed)
    run.log(fit.steps, metrics | {"denoiser_calls": calls})
    return model.eval()


def collect(recipe: SamplerRecipe, policy: Policy, task: Task, name: str) -> tuple[list[RiskData], int]:
    """Return the states of each batch of train problems, and the denoiser calls that they took."""
    settings, parts = recipe.states, list[RiskData]()
    usage = policy.denoiser.usage
    with ProgressBar(f"sampler {name}: states", settings.denoiser_calls) as bar:
        while usage.canvases < settings.denoiser_calls:
            seed = derive_seed(recipe.seed, "states", len(parts))
            problems, _ = draw_problems(task, "train", settings.batch, seed)
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
            parts.append(states)
            bar.update(min(usage.canvases, settings.denoiser_calls), accuracy=solved)
    return parts, usage.canvases


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
    sampler = PricedSampler(model, tuple(unmeasured), task.completion_length)
    decodings = {
        candidate.name: Decoding(
            sampler.rule(candidate),
            task.completion_length,
            recipe.block_length or task.completion_length,
            max_in_flight=recipe.max_in_flight,
        )
        for candidate in unmeasured
    }
    with ProgressBar(f"sampler {name}: prices", len(problems) * len(unmeasured)) as bar:
        outcomes = evaluate(policy, task, problems, decodings, recipe.validation_batch, on_progress=bar.update)
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
