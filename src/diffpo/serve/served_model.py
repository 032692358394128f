"""A model that is served: how its requests become rows of its engine."""

import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

from diffpo.core.conversation import Turn
from diffpo.core.errors import UserError
from diffpo.evaluation.completing import chosen_decoding
from diffpo.models.chat import encode_prompt
from diffpo.models.tokenizer import encode_text
from diffpo.recipes.parts import build_rule
from diffpo.sampling.commit_policy import CommitPolicy
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy
from diffpo.sampling.prices import Candidate
from diffpo.serve.engine import Engine
from diffpo.serve.errors import ApiError
from diffpo.serve.tables import ChatRequest, CompletionRequest, Request


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
    _encoding: threading.Lock = field(default_factory=threading.Lock)
    """A tokenizer sets options of its own while it encodes, so that two threads disturb each other."""

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

    def plan(self, asked: Request) -> Plan:
        """Return what to draw for a request. Raises ApiError for what this model cannot do."""
        length = asked.length or self.length
        if length is None:
            raise ApiError(
                400, f"max_tokens: {self.name} does not know how long its completions are; give it", "max_tokens"
            )
        decoding, how = self._decoding(asked, length)
        param = "messages" if isinstance(asked, ChatRequest) else "prompt"
        with self._encoding:
            prompts = self._prompts(asked, param)
        for ids in prompts:
            self._check_length(ids, length, param)
        num_rows = len(prompts) * asked.n
        most = self.engine.most_running + self.engine.most_waiting
        if num_rows > most:
            raise ApiError(400, f"n: {num_rows} completions are asked for, and this server takes {most} at most", "n")
        seed = asked.seed if asked.seed is not None else secrets.randbelow(2**53)
        if seed + num_rows > 2**63:
            raise ApiError(400, f"seed: {seed} leaves no seeds for {num_rows} completions; give a smaller one", "seed")
        return Plan(prompts, decoding, seed, asked.n, how)

    def _prompts(self, asked: Request, param: str) -> tuple[tuple[int, ...], ...]:
        """Return the ids of each prompt, in the chat template for a chat."""
        tokenizer = self.policy.tokenizer
        try:
            if isinstance(asked, CompletionRequest):
                return tuple(tuple(encode_text(tokenizer, prompt)) for prompt in asked.prompt)
            turns = tuple(Turn(message.role, message.content) for message in asked.messages)
            if tokenizer.chat_template or [turn.role for turn in turns] == ["user"]:
                return (tuple(encode_prompt(tokenizer, turns)),)
        except UserError as error:
            raise ApiError(400, f"{param}: {error}", param, "invalid_value") from error
        told = f"{self.name} has no chat template for several messages or roles; give one message of the user's"
        raise ApiError(400, f"{param}: {told}", param, "invalid_value")

    def _check_length(self, ids: tuple[int, ...], length: int, param: str) -> None:
        if not ids:
            raise ApiError(400, f"{param}: the prompt is empty; give at least one character", param, "invalid_value")
        if len(ids) + length > self.most_tokens:
            raise ApiError(
                400,
                f"{param}: the prompt has {len(ids)} tokens and the completion {length}, and {self.name} takes "
                f"{self.most_tokens} together; shorten the prompt, or lower max_tokens",
                param,
                "context_length_exceeded",
            )

    def _decoding(self, asked: Request, length: int) -> tuple[Decoding, str]:
        """Return how a request is decoded, and that in words."""
        if length % (asked.block_length or length):
            raise ApiError(
                400,
                f"block_length: {asked.block_length} does not divide the {length} tokens of the completion; give a "
                "divisor",
                "block_length",
                "invalid_value",
            )
        if asked.price is not None and self.policy.sampler is None:
            raise ApiError(
                400,
                f"price: {self.name} has no learned sampler that takes one; leave it out, or give entropy_bound",
                "price",
                "unsupported_parameter",
            )
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


def _how(asked: Request, decoding: Decoding, chosen: Candidate | None) -> str:
    """Return how a request is decoded; of a controller that chooses bounds, without the bounds."""
    if chosen is not None:
        return f"{chosen.name}, chosen for price {asked.price:g}"
    if asked.rule is not None:
        return ", ".join(f"{key} {value}" for key, value in asked.rule.model_dump().items()).removeprefix("kind ")
    if decoding.controller is not None:
        return decoding.controller.kind if isinstance(decoding.controller, CommitPolicy) else "entropy bound"
    return f"entropy bound {asked.entropy_bound or 0.0:g}"
