"""What a rollout and an update of a model of full size hold at most, against the dry run's estimate, part by part."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from diffpo.bench.device_meter import peak_bytes_of
from diffpo.bench.full_size import TEMPERATURE, AdapterUpdate, FullSize
from diffpo.bench.full_size_speed import Found
from diffpo.bench.shapes import BLOCK
from diffpo.likelihood import TwoTimesMeanField
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.llada import LLaDAModelLM
from diffpo.models.lm_head import LMHead, lm_head_logp
from diffpo.recipes.tables import RlRecipe
from diffpo.runs.dry_run.memory import Parts, call_bytes, resident_bytes, update_bytes
from diffpo.runs.dry_run.size import Size, measure_model
from diffpo.runs.dry_run.work import rl_work
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import sample
from diffpo.sampling.rules import TopK


def measure_memory(size: FullSize) -> Found:
    """Return for each part the measured and the estimated bytes, and their ratio.

    The update has gradient checkpointing. Its activations and the output head are measured apart, since they need not
    be there at the same time; the last line has them as they come.
    """
    recipe = size.recipe("gradient_checkpointing=true")
    denoiser = size.denoiser(gradient_checkpointing=True)
    weights, rollout = _bytes(denoiser.model.parameters()), _rollout_peak(size, denoiser)
    update = AdapterUpdate.prepare(size, recipe, denoiser)
    adapter = [p for p in denoiser.model.parameters() if p.requires_grad]
    update()  # after it the optimiser has its moments
    update.optimizer.zero_grad()
    peak = peak_bytes_of(update, denoiser.model)
    gradients = _bytes(p.grad for p in adapter if p.grad is not None)
    moments = _bytes(value for state in update.optimizer.state_dict()["state"].values() for value in state.values())
    measured = {
        "weights": weights,
        "adapter": _bytes(adapter),
        "gradients": gradients,
        "optimiser": moments,
        "update: activations": _blocks_peak(size, update) - gradients,
        "update: output head": _head_peak(size, denoiser),
        "rollout: activations and logits": rollout,
        "at most in a rollout": weights + rollout,
        "at most in an update": weights + _bytes(adapter) + moments + peak,
    }
    estimated = _estimate(size, recipe, sum(p.numel() for p in adapter))
    return {
        name: {"measured": value, "estimated": estimated[name], "ratio": value / estimated[name]}
        for name, value in measured.items()
    }


def _estimate(size: FullSize, recipe: RlRecipe, trained: int) -> Parts:
    """Return what the dry run says of the same parts."""
    with torch.device("meta"):
        model: Size = replace(measure_model(LLaDAModelLM(size.config)), trained=trained)
    width = 2 if size.dtype == "bfloat16" else 4
    resident = resident_bytes(recipe, model, has_reference=False)
    update = update_bytes(recipe, model, rl_work(recipe, size.prompt), size.group)
    call = call_bytes(model, size.rows, size.prompt + size.length, size.rows * BLOCK, width, has_cache=False)
    in_call = sum(call.values())
    totals = {
        "rollout: activations and logits": in_call,
        "at most in a rollout": resident["weights"] + in_call,
        "at most in an update": sum(resident.values()) + sum(update.values()),
    }
    return {**resident, **update, **totals}


def _rollout_peak(size: FullSize, denoiser: ModelDenoiser) -> int:
    """Return the bytes of one call, with the last block of each completion to be filled, beside the model."""
    prompts = size.prompts(size.rows, size.prompt + size.length - BLOCK)
    decoding = Decoding(TopK(BLOCK), BLOCK, BLOCK, TEMPERATURE)
    return peak_bytes_of(lambda: sample(denoiser, *prompts, decoding, torch.arange(size.rows)), denoiser.model)


def _blocks_peak(size: FullSize, update: AdapterUpdate) -> int:
    """Return the bytes of a forward and backward pass through the blocks without the head, gradients included."""
    model, group = update.denoiser.model, slice(0, size.group)
    rollout = update.batch.rollout.rows(group)
    plan = TwoTimesMeanField()(rollout, update.boundary_step[group], update.denoiser.mask_id)
    at = torch.zeros_like(plan.attention_mask)
    at[:, size.prompt :] = True
    update.optimizer.zero_grad()
    return peak_bytes_of(lambda: model.states(plan.canvas, plan.attention_mask, at).sum().backward(), model)


def _head_peak(size: FullSize, denoiser: ModelDenoiser) -> int:
    """Return the bytes of scoring every token of a micro-batch's completions once, and of the gradient."""
    head = denoiser.lm_head
    assert isinstance(head, LMHead)
    scored = size.group * size.length
    hidden = torch.randn(scored, size.config.d_model, dtype=denoiser.model.dtype, device=size.device)
    hidden.requires_grad_()
    index = torch.arange(scored, device=size.device)
    token = index % denoiser.mask_id
    return peak_bytes_of(lambda: lm_head_logp(hidden, head, index, token, TEMPERATURE).sum().backward(), denoiser.model)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
