"""Plain prompts become completions, with the denoiser calls that they took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath

import torch

from diffpo.core.conversation import Prompt
from diffpo.core.errors import UserError
from diffpo.core.rollout import Rollout
from diffpo.models.encoding import encode_prompts
from diffpo.models.tokenizer import decode_text
from diffpo.recipes.stored import sampled_length
from diffpo.runs.prompt_filter import prompt_capacity
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import SampledCall, sample
from diffpo.sampling.policy import Policy, load
from diffpo.sampling.prices import Candidate, require_sampler
from diffpo.sampling.rules import EntropyBound, HiddenRule, Rule


@dataclass(frozen=True)
class Completion:
    """One completion and how it was drawn."""

    text: str
    """Up to the end of text."""
    nfe: int
    """Denoiser calls that it took."""
    unmask_step: tuple[int, ...]
    """The call, counted from 0, that fixed each of its tokens."""
    entropy_bound: float
    """The entropy bound it was decoded with; nan where the rule has none."""


def complete(
    model: Policy | str | PathLike[str],
    prompts: Sequence[str],
    length: int | None = None,
    rule: Rule | HiddenRule | None = None,
    temperature: float = 0.0,
    block_length: int | None = None,
    seed: int = 0,
    price: float | None = None,
) -> list[Completion]:
    """Complete plain strings, as the one message of a user where the model has a chat template.

    `model` is a policy, a model's folder, a run or its folder, or a hub name. Without a `length` completions have as
    many tokens as those of the task that the model was trained on; without a `rule` the model's controller decides, the
    prompt's entropy bound or which positions a call commits, and where the model has none one token is committed per
    call. With a `price`, what one call per token costs in accuracy, the model's sampler decodes by the rule that is
    best at it. `temperature` 0 takes the likeliest tokens. `block_length`: the semi-autoregressive window; None: the
    sampler's with a price, else the whole completion.

    Raises UserError where there is no such model, no length is known, or a prompt is empty or too long for the model,
    and for a price that is no price, comes beside a rule, or finds no sampler.
    """
    if isinstance(prompts, str):
        raise UserError("prompts is one string; give a list of prompts: [prompt]")
    if not prompts:
        return []
    for name, value in (("length", length), ("block_length", block_length)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; give at least 1")
    source = model.denoiser.model.name_or_path if isinstance(model, Policy) else fspath(model)
    length = length or sampled_length(source, None)
    policy = model if isinstance(model, Policy) else load(source)
    if price is not None and rule is not None:
        raise UserError("a price lets the model's sampler choose a rule, and a rule is given; give one of them")
    decoding, _ = chosen_decoding(
        policy, str(source), length, price=price, temperature=temperature, rule=rule, block_length=block_length
    )
    rollout = draw_completions(policy, prompts, decoding, seed)
    texts = [decode_text(policy.tokenizer, row, policy.denoiser.stop_ids) for row in rollout.completion_ids.tolist()]
    rows = zip(texts, rollout.nfe.tolist(), rollout.unmask_step.tolist(), rollout.entropy_bound.tolist(), strict=True)
    return [Completion(text, nfe, tuple(steps), bound) for text, nfe, steps, bound in rows]


def chosen_decoding(
    policy: Policy,
    model: str,
    length: int,
    entropy_bound: float | None = None,
    price: float | None = None,
    temperature: float = 0.0,
    *,
    rule: Rule | HiddenRule | None = None,
    block_length: int | None = None,
) -> tuple[Decoding, Candidate | None]:
    """Return how completions are decoded, and what the model's sampler chose if there is a price.

    With a price the policy's sampler decides; without one the `rule`, else the bound, else the policy's controller,
    else the bound 0. `block_length` None: the sampler's with a price, else all of the completion. Raises UserError for
    a price where there is no sampler; `model` is its name in the message.
    """
    if price is not None:
        sampler = require_sampler(policy.sampler, policy.controller is not None, model)
        chosen = sampler.best(price)
        block_length = block_length or sampler.block_length_of(length)
        return Decoding(sampler.rule(chosen), length, block_length, temperature), chosen
    learned = policy.controller if rule is None and entropy_bound is None else None
    decided = rule or EntropyBound(entropy_bound or 0.0)
    return Decoding(decided, length, block_length or length, temperature, learned), None


def draw_completions(
    policy: Policy,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    seed: int,
    observe: Callable[[SampledCall], None] | None = None,
) -> Rollout:
    """Draw one completion for each prompt; the seeds of the rows are `seed`, `seed` + 1, ...

    `observe` is called at each denoiser call, before its tokens are committed.

    Raises UserError for a prompt that is empty, or that the model has no positions for.
    """
    if not all(prompts):
        raise UserError("the prompt is empty; give at least one character")
    prompt_ids, prompt_mask = encode_prompts(policy.tokenizer, prompts)
    capacity = prompt_capacity(policy.denoiser.model.config, policy.tokenizer, decoding.length)
    num_tokens = prompt_ids.shape[1]
    if capacity is not None and num_tokens > capacity:
        raise UserError(
            f"the prompt has {num_tokens} tokens, and beside a completion of {decoding.length} the model has positions "
            f"for {max(0, capacity)}; shorten it, or lower --length"
        )
    seeds = seed + torch.arange(len(prompts))
    canvases = prompt_ids.to(policy.device), prompt_mask.to(policy.device)
    return sample(policy.denoiser, *canvases, decoding, seeds, observe=observe)
