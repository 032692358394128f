"""Masked supervised fine-tuning, d1's first stage (arXiv 2504.12216): denoise right answers at every mask rate."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import Stopped, UserError
from diffpo.core.options import Resume
from diffpo.core.randomness import derive_seed, generator_for, stratified_uniform, uniform_to_index
from diffpo.distributed.collectives import (
    all_gather_json,
    object_of_rank_zero,
    on_rank_zero,
    process_group,
    raise_on_all_ranks,
)
from diffpo.distributed.process import current_process, rank_slice, require_divisible
from diffpo.distributed.sharding import gathered
from diffpo.models.adapters import add_adapter
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.fingerprint import fingerprint
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.loading import make_denoiser
from diffpo.models.model_paths import model_folder
from diffpo.models.positions import most_tokens
from diffpo.models.tokenizer import char_tokenizer
from diffpo.recipes.dump import plain_table
from diffpo.recipes.tables import EarlyStopping, SftRecipe, TinyModel, base_bits
from diffpo.recipes.tasks import checked_task
from diffpo.runs.agreement import require_same_inputs, require_same_start, require_shared_folder
from diffpo.runs.device import configure_model_, configure_torch_, resolve_device
from diffpo.runs.interrupt import interruptible
from diffpo.runs.optimizer import Optimizer, policy_optimizer, set_learning_rate
from diffpo.runs.parallel import mesh_of, shard_model_
from diffpo.runs.progress import ProgressBar
from diffpo.runs.prompt_filter import LOOKED_AT, ROWS_TOO_LONG, draw_problems, filter_long_rows
from diffpo.runs.resume import RunProgress, restore
from diffpo.runs.run_dir import Run, check_base, find_run, open_run, say_finished
from diffpo.runs.run_lock import RunLock, locked
from diffpo.runs.saving import Checkpoints
from diffpo.runs.trackers import Trackers
from diffpo.sampling.answering import answer_problems
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy, load_base, load_folder
from diffpo.sampling.rules import EntropyBound
from diffpo.tasks.base import Task, characters_of
from diffpo.training.optimizer_step import step_optimizer
from diffpo.training.rounds import count_rounds, join_passes
from diffpo.training.sft_data import Targets, draw_sequences, on_canvas

SHOWN = ("loss", "accuracy", "rows_too_long", "rows_cut")
"""The metrics of a step that its progress shows."""
OnStep = Callable[[Policy, int], None]
"""Called after a step with the policy and the steps done."""


@process_group()
def run_sft(
    recipe: SftRecipe,
    out: Path,
    resume: Resume = False,
    extend: bool = False,
    on_step: OnStep | None = None,
    lock: RunLock | None = None,
) -> None:
    """Train from the recipe into `out`: a JSON line per step, checkpoints, the finished model as the last of them.

    `resume` goes on with the run in `out`, and with "auto" only if there is one; `extend` lets it have more steps.
    `on_step` is called before the step's checkpoint is written: where it fails, `--resume` repeats the step.
    The caller may hold the `lock` of `out`.

    Raises UserError, before anything is written, for what is wrong with the task, its prompts or the base, and
    NonFiniteLossError when a loss is not a number; the last whole checkpoint stays.
    """
    require_same_start(recipe, out)
    recipe.parallel.layout_of(current_process().world_size)
    require_divisible("batch", recipe.batch)
    with locked(out, lock) as held:
        run = object_of_rank_zero(find_run, out, recipe, resume, extend, held)
        if has_ended(recipe, run.progress):
            say_finished(run)
        else:
            _train(recipe, run, held, on_step)


def has_ended(recipe: SftRecipe, progress: RunProgress) -> bool:
    """Return whether a run has taken its last step, which early stopping may make of an earlier one."""
    if recipe.early_stopping is None or progress.step >= recipe.steps:
        return progress.step >= recipe.steps
    return progress.is_finished if progress.is_good_enough is None else progress.is_good_enough


def _train(recipe: SftRecipe, run: Run, lock: RunLock, on_step: OnStep | None) -> None:
    """Take the steps that are left."""
    out = run.path
    trackers = Trackers(recipe.track, out, run.progress.step, plain_table(recipe))
    with raise_on_all_ranks():
        task = checked_task(recipe.task, "train")
        configure_torch_(recipe)
        check_base(run, recipe.base)
        if run.checkpoint:
            policy = load_folder(run.checkpoint, *resolve_device(recipe), base_bits(recipe), recipe.base)
        else:
            policy = starting_policy(recipe, task)
        base = None if recipe.base is None else fingerprint(model_folder(Path(recipe.base)))
    require_same_inputs(task, recipe.base)
    on_rank_zero(open_run, run, recipe, lock)
    require_shared_folder(run.path)
    task = filtered_task(recipe, task, policy)
    denoiser = configure_model_(policy.denoiser, recipe)
    shard_model_(denoiser, mesh_of(denoiser, recipe))
    optimizers: dict[str, Optimizer] = {"policy": policy_optimizer(denoiser.model, recipe.optimizer)}
    if run.checkpoint:
        restore(run.checkpoint, optimizers, denoiser.model)

    step, is_finished = run.progress.step, False
    shown: dict[str, float] = {}
    with raise_on_all_ranks():
        trackers.start()
    with (
        trackers,
        ProgressBar(f"sft {out.name}", recipe.steps, done=step) as bar,
        interruptible() as interrupt,
        Checkpoints(out, recipe.checkpoint) as checkpoints,
    ):
        while not is_finished:
            targets, counts = targets_of(recipe, task, policy.tokenizer, step)
            noise = draw_noise(targets, recipe.weighting, generator_for(recipe.seed, "mask", step))
            rate = set_learning_rate(optimizers["policy"], recipe.optimizer, step, step / recipe.steps)
            norm, loss = train_step(denoiser, targets, noise, recipe, optimizers["policy"])
            step += 1
            metrics: dict[str, float] = {"loss": loss, "grad_norm": norm, "learning_rate": rate, **counts}
            if recipe.early_stopping and is_due(recipe.early_stopping, step):
                with gathered(denoiser.model):
                    metrics["accuracy"] = on_rank_zero(validate, policy, task, recipe.early_stopping)
            is_good_enough = None
            if recipe.early_stopping:
                is_good_enough = metrics.get("accuracy", 0.0) >= recipe.early_stopping.accuracy
            is_finished = step == recipe.steps or bool(is_good_enough)
            on_rank_zero(run.log, step, metrics)
            trackers.log(step, metrics)
            shown |= {name: metrics[name] for name in SHOWN if name in metrics}  # accuracy: that of the last check
            bar.update(step, **shown)
            if "rows_too_long" in metrics:
                bar.warn(ROWS_TOO_LONG, **metrics)
            if on_step is not None:
                on_step(policy, step)

            is_stopped = any(all_gather_json(interrupt.requested or checkpoints.has_failed))
            if is_finished or is_stopped or step % recipe.checkpoint.every == 0:
                progress = RunProgress(step, step * recipe.batch, is_finished, is_good_enough, base)
                checkpoints.save(progress, policy, optimizers, is_last=is_finished)
            if is_stopped and not is_finished:
                raise Stopped(f"stopped at step {step}; go on with the same command and --resume")


def starting_policy(recipe: SftRecipe, task: Task) -> Policy:
    """Return the base, with an adapter if the recipe has one, or a fresh model.

    Raises UserError where the model has no room for any prompt.
    """
    dtype, device = resolve_device(recipe)
    if recipe.base is not None:
        policy = replace(load_base(recipe.base, dtype, device, base_bits(recipe)), controller=None, sampler=None)
        if recipe.lora is not None:
            add_adapter(policy.denoiser, recipe.lora.rank, recipe.lora.alpha, derive_seed(recipe.seed, "adapter"))
    else:
        tokenizer = char_tokenizer(characters_of(task))
        model = tiny_llada(recipe.model, tokenizer, derive_seed(recipe.seed, "init")).to(device, dtype)
        policy = Policy(make_denoiser(model, tokenizer), tokenizer)
    filtered_task(recipe, task, policy).problems("train", LOOKED_AT, seed=0)
    return policy


def filtered_task(recipe: SftRecipe, task: Task, policy: Policy) -> Task:
    """Return the task without prompts and answers that are too long for a canvas.

    Rows of `sequence_length` tokens need no such filter. Raises UserError where these have more tokens than the model
    has positions.
    """
    config = policy.denoiser.model.config
    if recipe.sequence_length is None:
        return filter_long_rows(task, recipe.task, config, policy.tokenizer)
    positions = most_tokens(config, policy.tokenizer)
    if positions < recipe.sequence_length:
        raise UserError(
            f"sequence_length {recipe.sequence_length} is more than the {positions} that the model takes; lower it"
        )
    return task


def tiny_llada(recipe: TinyModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> LLaDAModelLM:
    """A freshly initialised LLaDA of the recipe's size over the tokenizer's vocabulary."""
    config = LLaDAConfig(
        d_model=recipe.d_model,
        n_layers=recipe.n_layers,
        n_heads=recipe.n_heads,
        mlp_hidden_size=recipe.mlp_hidden_size,
        rope_theta=recipe.rope_theta,
        vocab_size=len(tokenizer),
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LLaDAModelLM(config)


def targets_of(
    recipe: SftRecipe, task: Task, tokenizer: PreTrainedTokenizerFast, step: int
) -> tuple[Targets, dict[str, int]]:
    """Return the rows of a step, and counts of those that were too long or, with `sequence_length`, cut or skipped."""
    seed = derive_seed(recipe.seed, "sft", step)
    if recipe.sequence_length is None:
        problems, too_long = draw_problems(task, "train", recipe.batch, seed)
        targets = on_canvas(tokenizer, problems, task.completion_length)
        return targets, {"rows_too_long": too_long} if too_long else {}
    return draw_sequences(tokenizer, task, recipe.batch, seed, recipe.sequence_length, recipe.too_long)


@dataclass(frozen=True)
class Noise:
    """The masked tokens of a batch and their weights in the loss."""

    is_masked: Bool[Tensor, "B N"]
    weight: Float[Tensor, " B"]
    """Weight of each masked token of a row."""
    total: int
    """Divisor of the weighted losses, that of the whole batch also where this holds only some of its rows."""

    def rows(self, index: Int[Tensor, " b"]) -> "Noise":
        return replace(self, is_masked=self.is_masked[index], weight=self.weight[index])


def draw_noise(
    targets: Targets, weighting: Literal["elbo", "uniform"], generator: torch.Generator, empty_share: float = 0.0
) -> Noise:
    """Masks for every row's completion, of L_i tokens; the prompt is never masked.

    A row's number of masked tokens m_i is uniform over 1..L_i, stratified over the batch. `elbo` averages over rows
    (1 / L_i) sum CE L_i / m_i, which is unbiased for the bound -log p(answer) / L_i <= E[mean cross-entropy] (LLaDA,
    arXiv 2502.09992); drawing m and not a rate keeps its weights bounded. `uniform` weighs all masked tokens of the
    batch the same, which favours nearly empty canvases, where the hard decisions are. Of the first `empty_share` of the
    rows all tokens are masked instead: the canvas of a first call.
    """
    num_rows, width = targets.ids.shape
    longest = int(targets.length.max())
    count = 1 + uniform_to_index(stratified_uniform(num_rows, 1, generator)[:, 0], targets.length)
    is_empty = torch.arange(num_rows) < round(empty_share * num_rows)
    count = torch.where(is_empty, targets.length, count)
    is_prompt = torch.arange(longest) < (longest - targets.length)[:, None]
    order = torch.rand(num_rows, longest, generator=generator).masked_fill(is_prompt, 2.0)
    is_masked = F.pad(order.argsort(dim=1).argsort(dim=1) < count[:, None], (width - longest, 0), value=False)
    if weighting == "uniform":
        return Noise(is_masked, torch.ones(num_rows), int(count.sum()))
    return Noise(is_masked, 1 / count, num_rows)


def denoising_loss(denoiser: ModelDenoiser, targets: Targets, noise: Noise) -> Float[Tensor, ""]:
    """Return these rows' part of the weighted cross-entropy of the masked tokens, in nats per completion token."""
    device = denoiser.model.device
    canvas = targets.ids.masked_fill(noise.is_masked, denoiser.mask_id)
    output = denoiser.predict(canvas.to(device), targets.visible.to(device), noise.is_masked.to(device))
    token = targets.ids[noise.is_masked].to(device)
    losses = -output.logp(torch.arange(len(token), device=device), token, temperature=1.0)
    weight = noise.weight[:, None].expand(canvas.shape)[noise.is_masked]
    return (losses * weight.to(device)).sum() / noise.total


def train_step(
    denoiser: ModelDenoiser, targets: Targets, noise: Noise, recipe: SftRecipe, optimizer: Optimizer
) -> tuple[float, float]:
    """Take one optimiser step; return the norm of its gradient before clipping, and the loss of all processes.

    Raises NonFiniteLossError before the optimiser is touched.
    """
    optimizer.zero_grad()
    loss = backward(denoiser, targets, noise, recipe.micro_batch_size or recipe.batch)
    return step_optimizer([*denoiser.model.parameters()], optimizer, recipe.optimizer.grad_clip, loss)


def backward(denoiser: ModelDenoiser, targets: Targets, noise: Noise, micro_batch_size: int) -> float:
    """Add the gradient of the batch's loss to the model's, `micro_batch_size` rows at a time; return the loss.

    Of several processes each computes its slice of the rows, which may have none.
    """
    loss = 0.0
    own = torch.arange(len(targets.ids))[rank_slice(len(targets.ids))]
    parts = own.split(micro_batch_size) if len(own) else ()
    for rows in parts:
        part = denoising_loss(denoiser, targets.rows(rows), noise.rows(rows))
        part.backward()
        loss += float(part.detach())
    join_passes(denoiser, count_rounds(denoiser, len(targets.ids), micro_batch_size) - len(parts))
    return loss


def is_due(early_stopping: EarlyStopping, step: int) -> bool:
    return step >= early_stopping.start and (step - early_stopping.start) % early_stopping.every == 0


def validate(policy: Policy, task: Task, early_stopping: EarlyStopping) -> float:
    """Return the share of validation problems solved greedily. The problems are the same at every check."""
    problems = task.problems("validation", early_stopping.problems_per_check, seed=0)
    decoding = Decoding(EntropyBound(early_stopping.bound), task.completion_length, task.completion_length)
    _, grades = answer_problems(policy, task, problems, decoding)
    return sum(grade.is_solved for grade in grades) / len(grades)
