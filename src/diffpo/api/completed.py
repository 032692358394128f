"""`diffpo.complete`: prompts that are in memory become completions, with the denoiser calls that they took."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from os import PathLike

from diffpo.api.calling import calling
from diffpo.core.arguments import given_count, given_path, given_seed, given_temperature, shown
from diffpo.core.conversation import PROMPTS, Prompt, as_prompt, wrong_message
from diffpo.core.errors import UserError
from diffpo.core.price import check_price
from diffpo.core.rollout import Rollout
from diffpo.evaluation.completing import chosen_decoding, draw_completions, warn_beyond_training
from diffpo.models.chat import encode_prompt
from diffpo.models.positions import require_room
from diffpo.models.tokenizer import decode_text
from diffpo.recipes.stored import sampled_length
from diffpo.sampling.policy import Policy, load
from diffpo.sampling.rules import HiddenRule, Rule


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
    prompts: str | Iterable[str | Sequence[Mapping[str, str]]],
    length: int | None = None,
    rule: Rule | HiddenRule | None = None,
    temperature: float = 0.0,
    block_length: int | None = None,
    seed: int = 0,
    price: float | None = None,
) -> list[Completion]:
    """Complete prompts: a text, or several, or conversations; return one completion for each.

    `prompts` is a text or any iterable of texts and of conversations. A text is the one message of a user where the
    model has a chat template; a conversation is a list of messages, `{"role": "user", "content": "..."}`, which a model
    without a template reads as text. `model` is a policy, a model's folder, a run or its folder, or a hub name.

    Without a `length` completions have as many tokens as those of the task that the model was trained on; without a
    `rule` the model's controller decides, the prompt's entropy bound or which positions a call commits, and where the
    model has none one token is committed per call. With a `price`, what one call per token costs in accuracy, the
    model's sampler decodes by the rule that is best at it. `temperature` 0 takes the likeliest tokens; the seeds of the
    prompts are `seed`, `seed` + 1, ... `block_length`: the semi-autoregressive window; None: the sampler's with a
    price, else the whole completion.

    Raises UserError where there is no such model, no length is known, or a prompt is none, empty or too long for the
    model, for numbers that are none, and for a price that is no price, comes beside a rule, or finds no sampler.
    """
    with calling():
        asked = prompts_of(prompts)
        if length is not None:
            length = given_count(length, "length")
        if block_length is not None:
            block_length = given_count(block_length, "block_length")
        seed = given_seed(seed)
        given_temperature(temperature)
        if price is not None:
            check_price(price)
        if rule is not None and not isinstance(rule, Rule | HiddenRule):
            raise UserError(f"rule is {shown(rule)}; give a rule, as diffpo.EntropyBound(0.1)")
        if price is not None and rule is not None:
            raise UserError("a price lets the model's sampler choose a rule, and a rule is given; give one of them")
        source = model.denoiser.model.name_or_path if isinstance(model, Policy) else str(given_path(model, "model"))
        if not asked:
            return []
        length = length or sampled_length(source, None)
        policy = model if isinstance(model, Policy) else load(source)
        _check_room(policy, asked, length)
        warn_beyond_training(policy, source, length)
        decoding, _ = chosen_decoding(
            policy, source, length, price=price, temperature=temperature, rule=rule, block_length=block_length
        )
        return _completions(policy, draw_completions(policy, asked, decoding, seed))


def prompts_of(given: object) -> list[Prompt]:
    """Return the prompts of a call. Raises UserError, which names the first that is none."""
    if isinstance(given, str):
        given = [given]
    if hasattr(given, "columns"):
        raise UserError(f"prompts is {shown(given)}, a table; give one of its columns")
    if isinstance(given, bytes | Mapping | Set) or not isinstance(given, Iterable):
        raise UserError(f"prompts is {shown(given)}; give a text, or a list of texts or of conversations")
    found: list[Prompt] = []
    for number, one in enumerate(given):
        if one == "":
            raise UserError(f"prompts[{number}] is empty; give at least one character")
        prompt = one if isinstance(one, str) else as_prompt(one)
        if prompt is None:
            if told := wrong_message(one):
                raise UserError(f"prompts[{number}]{told}")
            hint = "; a conversation is a list in this list" if isinstance(one, Mapping) else ""
            raise UserError(f"prompts[{number}] is {shown(one)}; give {PROMPTS}{hint}")
        found.append(prompt)
    return found


def _check_room(policy: Policy, prompts: Sequence[Prompt], length: int) -> None:
    """Raise UserError, which names the prompt, for one that the model cannot read, or has no room for."""
    for number, prompt in enumerate(prompts):
        try:
            num_tokens = len(encode_prompt(policy.tokenizer, prompt))
        except UserError as error:
            raise UserError(f"prompts[{number}]: {error}") from error
        require_room(policy.most_tokens, num_tokens, length, f"prompts[{number}]")


def _completions(policy: Policy, rollout: Rollout) -> list[Completion]:
    texts = [decode_text(policy.tokenizer, row, policy.denoiser.stop_ids) for row in rollout.completion_ids.tolist()]
    rows = zip(texts, rollout.nfe.tolist(), rollout.unmask_step.tolist(), rollout.entropy_bound.tolist(), strict=True)
    return [Completion(text, nfe, tuple(steps), bound) for text, nfe, steps, bound in rows]
