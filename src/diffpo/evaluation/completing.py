"""How prompts are decoded, and the drawing of one completion for each."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from diffpo.core.conversation import Prompt
from diffpo.core.errors import UserError
from diffpo.core.output import warn
from diffpo.core.rollout import Rollout
from diffpo.distributed.process import current_process
from diffpo.evaluation.sample_settings import SampleSettings
from diffpo.models.encoding import encode_prompts
from diffpo.models.positions import require_room
from diffpo.models.tokenizer import is_char_tokenizer
from diffpo.recipes.stored import stored_task
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.loop import SampledCall, sample
from diffpo.sampling.policy import Policy
from diffpo.sampling.prices import Candidate, require_sampler
from diffpo.sampling.rules import EntropyBound, HiddenRule, Rule


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


def warn_beyond_training(policy: Policy, model: str, length: int) -> None:
    """Say, in the first process, that a tiny model has never seen so long a completion: its positions mean nothing."""
    if not is_char_tokenizer(policy.tokenizer) or not current_process().is_main:
        return
    with suppress(UserError):
        trained = stored_task(Path(model)).completion_length
        if length > trained:
            warn(
                f"diffpo: {model} was trained on completions of {trained} tokens, and these have {length}: it has not "
                "learned what to write beyond"
            )


def hint_at_prices(policy: Policy, model: str, settings: SampleSettings) -> None:
    """Say, in the first process, that a sampler which takes a price was given none, and so decodes nothing."""
    is_asked = settings.price is not None or settings.entropy_bound is not None or policy.controller is not None
    if policy.sampler is not None and not is_asked and not settings.is_quiet and current_process().is_main:
        warn(
            f"diffpo: {model} has a learned sampler, which decodes in fewer calls at a price: give one, as --price 0.1"
        )


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
    require_room(policy.most_tokens, prompt_ids.shape[1], decoding.length)
    seeds = seed + torch.arange(len(prompts))
    canvases = prompt_ids.to(policy.device), prompt_mask.to(policy.device)
    return sample(policy.denoiser, *canvases, decoding, seeds, observe=observe)
