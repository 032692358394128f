"""A model that is served: how its requests become rows of its engine."""

import asyncio
import copy
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from starlette.concurrency import run_in_threadpool
from transformers import PreTrainedTokenizerFast

from diffpo.core.conversation import Prompt
from diffpo.core.errors import UserError
from diffpo.evaluation.completing import chosen_decoding
from diffpo.models.chat import encode_prompt
from diffpo.models.longest_token import longest_token
from diffpo.models.tokenizer import encode_text
from diffpo.recipes.parts import build_rule
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy
from diffpo.sampling.prices import Candidate, require_sampler
from diffpo.serve.engine import Engine
from diffpo.serve.errors import ApiError
from diffpo.serve.reading import Request
from diffpo.serve.tables import Asked

LONG_TEXT = 2**16
"""Bytes of a request's texts above which they are encoded beside those of others."""


@dataclass(frozen=True)
class Plan:
    """A request as the engine needs it: one row for each seed of each prompt."""

    prompts: tuple[tuple[int, ...], ...]
    decoding: Decoding
    seed: int
    n: int
    """Completions of each prompt."""
    how: str
    """How it is decoded, in words."""

    @property
    def num_rows(self) -> int:
        return len(self.prompts) * self.n

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))


@dataclass(frozen=True)
class ServedModel:
    """A policy and its engine, under the name by which clients ask for it."""

    name: str
    policy: Policy
    engine: Engine
    most_tokens: int
    """Of prompt and completion together."""
    length: int | None
    """Tokens of a completion that does not say how long; None: it must."""

    def describe(self) -> dict[str, Any]:
        """What `/v1/models` says: OpenAI's fields, and what the page needs."""
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "diffpo",
            "max_model_len": self.most_tokens,
            "max_tokens": self.length,
            "has_controller": self.policy.controller is not None,
            "has_prices": self.policy.sampler is not None,
            "has_chat_template": bool(self.policy.tokenizer.chat_template),
        }

    async def plan(self, request: Request) -> Plan:
        """Return what to draw for a request. Raises ApiError for what this model cannot do."""
        asked, param = request.asked, request.param
        length = asked.length or self.length
        if length is None:
            told = f"max_tokens is missing, and {self.name} does not know how long its completions are; give it"
            raise ApiError(400, told, "max_tokens", "missing_required_parameter")
        decoding, how = self._decoding(asked, length)
        num_rows = len(request.prompts) * asked.n
        most = self.engine.most_running + self.engine.most_waiting
        if num_rows > most:
            told = (
                f"n = {asked.n} for each of {len(request.prompts)} prompts asks for {num_rows} completions, and this "
                f"server takes {most} at most; give fewer"
            )
            raise ApiError(400, told, "n" if asked.n > 1 else param, "invalid_value")
        seed = asked.seed if asked.seed is not None else secrets.randbelow(2**53)
        if seed + num_rows > 2**63:
            told = f"seed {seed} leaves no seeds for {num_rows} completions; give a smaller one"
            raise ApiError(400, told, "seed", "invalid_value")
        if length >= self.most_tokens:
            told = (
                f"a completion of {length} tokens leaves none for the prompt: {self.name} takes {self.most_tokens} "
                "together; lower max_tokens"
            )
            raise ApiError(400, told, "max_tokens", "context_length_exceeded")
        sizes = [_size(prompt) for prompt in request.prompts]
        if sum(sizes) <= LONG_TEXT:
            prompts = await self._encoder.encode(request)
        elif self._longest_token is None or max(sizes) <= (self.most_tokens - length) * self._longest_token:
            prompts = await self._long_encoder.encode(request)
        else:
            raise self._too_long(f"{max(sizes)} bytes of text", length, param)
        if not all(prompts):
            raise ApiError(400, "the prompt has no tokens; give a text", param, "invalid_value")
        if (longest := max(map(len, prompts))) + length > self.most_tokens:
            raise self._too_long(f"{longest} tokens", length, param)
        return Plan(prompts, decoding, seed, asked.n, how)

    @cached_property
    def _longest_token(self) -> int | None:
        return longest_token(self.policy.tokenizer)

    @cached_property
    def _encoder(self) -> "_Encoder":
        return _Encoder(self.name, self.policy.tokenizer)

    @cached_property
    def _long_encoder(self) -> "_Encoder":
        """With a tokenizer of its own, so that nobody waits for the seconds that a very long text takes."""
        return _Encoder(self.name, copy.deepcopy(self.policy.tokenizer))

    def _too_long(self, size: str, length: int, param: str) -> ApiError:
        told = (
            f"the prompt has {size}, more than the {self.most_tokens - length} tokens that {self.name} has beside a "
            f"completion of {length} can hold; shorten it, or lower max_tokens"
        )
        return ApiError(400, told, param, "context_length_exceeded")

    def _decoding(self, asked: Asked, length: int) -> tuple[Decoding, str]:
        """Return how a request is decoded, and that in words."""
        if length % (asked.block_length or length):
            raise ApiError(
                400,
                f"block_length {asked.block_length} does not divide the {length} tokens of the completion; give a "
                "divisor",
                "block_length",
                "invalid_value",
            )
        if asked.price is not None:
            try:
                require_sampler(self.policy.sampler, self.policy.controller is not None, self.name)
            except UserError as error:
                raise ApiError(400, str(error), "price", "unsupported_parameter") from error
        decoding, chosen = chosen_decoding(
            self.policy,
            self.name,
            length,
            asked.entropy_bound,
            asked.price,
            asked.temperature,
            rule=build_rule(asked.rule) if asked.rule is not None else None,
            block_length=asked.block_length,
        )
        return decoding, _how(asked, decoding, chosen)


class _Encoder:
    """Encodes the texts of one request after the other, each in a thread beside the server's loop.

    A tokenizer sets options of its own while it encodes, so that two threads would disturb each other.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        self._name, self._tokenizer = name, tokenizer
        self._turn = asyncio.Lock()

    async def encode(self, request: Request) -> tuple[tuple[int, ...], ...]:
        """Return the ids of each prompt, in the chat template for a chat. Raises ApiError where there are none."""
        async with self._turn:
            return await run_in_threadpool(self._encode, request)

    def _encode(self, request: Request) -> tuple[tuple[int, ...], ...]:
        try:
            return tuple(tuple(self._ids(prompt)) for prompt in request.prompts)
        except UserError as error:
            raise ApiError(400, str(error), request.param, "invalid_value") from error

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return encode_text(self._tokenizer, prompt)
        if not self._tokenizer.chat_template and [turn.role for turn in prompt] != ["user"]:
            raise UserError(
                f"{self._name} has no chat template for several messages or roles; give one message of the user's"
            )
        return encode_prompt(self._tokenizer, prompt)


def _size(prompt: Prompt) -> int:
    """Return the bytes of a prompt's text; white space around a message is none of it, as in the chat template."""
    texts = [prompt] if isinstance(prompt, str) else [turn.content.strip() for turn in prompt]
    return sum(len(text.encode()) for text in texts)


def _how(asked: Asked, decoding: Decoding, chosen: Candidate | None) -> str:
    """Return how a request is decoded; of a controller that chooses bounds, without the bounds."""
    if chosen is not None:
        return f"{chosen.name}, chosen for price {asked.price:g}"
    if asked.rule is not None:
        return ", ".join(f"{key} {value}" for key, value in asked.rule.model_dump().items()).removeprefix("kind ")
    if decoding.controller is not None:
        return decoding.controller.kind if isinstance(decoding.controller, CommitPolicy) else "entropy bound"
    return f"entropy bound {asked.entropy_bound or 0.0:g}"
