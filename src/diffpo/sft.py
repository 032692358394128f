"""Masked supervised fine-tuning, d1's first stage (arXiv 2504.12216): denoise right answers at every mask rate."""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from diffpo.canvas import full_attention_mask
from diffpo.checkpoint import Progress, load_base, model_folder, restore_optimizers, save_checkpoint
from diffpo.errors import NonFiniteLossError, Stopped
from diffpo.machine import checkpointed, place_of
from diffpo.models.adapters import add_adapter
from diffpo.models.denoiser import Denoiser
from diffpo.models.llada import LLaDAConfig, LLaDAModelLM
from diffpo.models.loading import denoiser_of, load_denoiser
from diffpo.optimizer import Optimizer, policy_optimizer, set_learning_rate
from diffpo.problem import Problem, Task
from diffpo.progress import Progress as Bar
from diffpo.randomness import pick, seed_of, strata, stream
from diffpo.recipes.schema import SftRecipe, StopAt, TinyModel
from diffpo.recipes.tasks import checked_task
from diffpo.records import interruptible, open_run
from diffpo.rollout import Decoding, answer, encode, encode_answers
from diffpo.tokenizer import char_tokenizer
from diffpo.unmasking import TopK


def run_sft(recipe: SftRecipe, out: Path, resume: bool = False) -> None:
    """Train from the recipe into `out`: a JSON line per step, checkpoints, the finished model as the last of them.

    Raises NonFiniteLossError when a loss is not a number; the last whole checkpoint stays.
    """
    # A task out of range or without data, and a base that is not there, are said before the run's folder is made.
    task = checked_task(recipe.task, "train")
    if recipe.base is not None:
        model_folder(Path(recipe.base))
    run = open_run(out, recipe, resume)
    dtype, device = place_of(recipe)
    if run.checkpoint:
        denoiser, tokenizer = load_denoiser(run.checkpoint, dtype, device)
    elif recipe.base is not None:
        denoiser, tokenizer, _ = load_base(recipe.base, dtype, device)
        if recipe.lora is not None:
            add_adapter(denoiser, recipe.lora.rank, recipe.lora.alpha, seed_of(recipe.seed, "adapter"))
    else:
        tokenizer = char_tokenizer(task.alphabet)
        model = tiny_llada(recipe.model, tokenizer, seed_of(recipe.seed, "init")).to(device, dtype)
        denoiser = denoiser_of(model, tokenizer)
    checkpointed(denoiser, recipe)
    optimizer = policy_optimizer(denoiser.model, recipe.optimizer)
    optimizers: dict[str, Optimizer] = {"policy": optimizer}
    if run.checkpoint:
        restore_optimizers(run.checkpoint, optimizers)

    step, is_finished = run.progress.step, run.progress.is_finished
    with Bar(f"sft {out.name}", recipe.steps) as bar, interruptible() as interrupt:
        while not is_finished:
            problems = task.problems("train", recipe.batch, seed_of(recipe.seed, "sft", step))
            set_learning_rate(optimizer, recipe.optimizer, step, step / recipe.steps)
            draw = stream(recipe.seed, "mask", step)
            loss = denoising_loss(denoiser, tokenizer, problems, task.completion_length, recipe.weighting, draw)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(denoiser.model.parameters(), recipe.optimizer.grad_clip)
            if not bool(norm.isfinite()):
                raise NonFiniteLossError(f"the gradient's norm is {float(norm)}")
            optimizer.step()
            step += 1
            metrics = {"loss": float(loss.detach())}
            if recipe.stop_at and is_due(recipe.stop_at, step):
                metrics["accuracy"] = validate(denoiser, tokenizer, task, recipe.stop_at.problems_per_check)
            is_good_enough = recipe.stop_at and metrics.get("accuracy", 0.0) >= recipe.stop_at.accuracy
            is_finished = step == recipe.steps or bool(is_good_enough)
            run.log(step, metrics)
            bar.update(step, **metrics)
            if is_finished or interrupt.requested or step % recipe.checkpoint.every == 0:
                progress = Progress(step, step * recipe.batch, is_finished)
                save_checkpoint(out, progress, denoiser, tokenizer, None, optimizers, recipe.checkpoint.keep)
            if interrupt.requested and not is_finished:
                raise Stopped(f"stopped at step {step}; go on with the same command and --resume")


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


def denoising_loss(
    denoiser: Denoiser,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[Problem],
    length: int,
    weighting: Literal["elbo", "uniform"],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Cross-entropy of the masked answer tokens, in nats per answer token; the prompt is never masked.

    An answer shorter than the canvas of `length` L is filled up with end-of-text tokens, which count like the rest. A
    row's number of masked tokens m is uniform over 1..L, stratified over the batch. `elbo` weighs each token by L / m
    and is then unbiased for the bound -log p(answer) <= L E[mean cross-entropy] (LLaDA, arXiv 2502.09992); drawing m
    and not a rate keeps its weights bounded by L. `uniform` weighs all masked tokens of the batch the same,
    which favours nearly empty canvases, where the hard decisions are.
    """
    prompt_ids, prompt_mask = encode(tokenizer, [problem.prompt for problem in problems])
    answer_ids = encode_answers(tokenizer, [problem.answer for problem in problems], length)
    count = 1 + pick(strata(len(problems), 1, generator)[:, 0], length)
    rank = torch.rand(answer_ids.shape, generator=generator).argsort(dim=1).argsort(dim=1)
    is_masked = rank < count[:, None]
    canvas = torch.cat([prompt_ids, answer_ids.masked_fill(is_masked, denoiser.mask_id)], dim=1)
    at = F.pad(is_masked, (prompt_ids.shape[1], 0), value=False)
    device = denoiser.model.device
    said = denoiser.predict(canvas.to(device), full_attention_mask(prompt_mask, length).to(device), at.to(device))
    token = answer_ids[is_masked].to(device)
    losses = -said.logp(torch.arange(len(token), device=device), token, temperature=1.0)
    if weighting == "uniform":
        return losses.mean()
    per_row = (1 / count)[:, None].expand(answer_ids.shape)
    return (losses * per_row[is_masked].to(device)).sum() / len(problems)


def is_due(stop_at: StopAt, step: int) -> bool:
    return step >= stop_at.start and (step - stop_at.start) % stop_at.every == 0


def validate(denoiser: Denoiser, tokenizer: PreTrainedTokenizerFast, task: Task, count: int) -> float:
    """Share of validation problems solved greedily at one token per call. The problems are the same at every check."""
    problems = task.problems("validation", count, seed=0)
    decoding = Decoding(TopK(1), task.completion_length, task.completion_length)
    _, grades = answer(denoiser, tokenizer, task, problems, decoding)
    return sum(grade.is_solved for grade in grades) / count
