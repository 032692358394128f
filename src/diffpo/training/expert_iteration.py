"""Expert iteration: denoise the right answers that the run has found, as in SFT.

STaR, ReST and RAFT do this to autoregressive models. Here it also teaches speed: an answer that slow decoding found is
learned from canvases on which nearly all of it is masked, so that quick decoding learns to give it, too.
"""

import torch

from diffpo.models.denoiser import ModelDenoiser
from diffpo.recipes.tables import AdamRecipe, ExpertIterationObjective
from diffpo.runs.optimizer import Optimizer, set_learning_rate
from diffpo.training.optimizer_step import step_optimizer
from diffpo.training.right_answers import RightAnswers
from diffpo.training.sft import backward, draw_noise


def imitate(
    denoiser: ModelDenoiser,
    answers: RightAnswers,
    settings: ExpertIterationObjective,
    schedule: AdamRecipe,
    optimizer: Optimizer,
    generator: torch.Generator,
    spent: float,
) -> dict[str, float]:
    """Take `num_iterations` optimiser steps, each on answers and masks of its own; return metrics.

    There is no step, and no metric but their number, while there are no answers. `schedule` has the learning rate and
    the gradient's largest norm, and warms up over the steps that were taken; `spent` is the share of the budget that is
    gone. Of several processes, all of which have all answers, each scores its slice of every batch.

    Raises NonFiniteLossError before the optimiser is touched.
    """
    metrics = {"right_answers": float(len(answers))}
    if not len(answers):
        return metrics
    losses, norms, rates = [], [], []
    for targets in answers.draw(settings.num_iterations, settings.batch, generator):
        noise = draw_noise(targets, settings.weighting, generator, settings.empty_share)
        rates.append(set_learning_rate(optimizer, schedule, answers.updates, spent))
        optimizer.zero_grad()
        loss = backward(denoiser, targets, noise, settings.micro_batch_size or settings.batch)
        norm, total = step_optimizer([*denoiser.model.parameters()], optimizer, schedule.grad_clip, loss)
        answers.updates += 1
        losses.append(total)
        norms.append(norm)
    found = {"loss": losses, "grad_norm": norms, "learning_rate": rates}
    return metrics | {name: sum(values) / len(values) for name, values in found.items()}
