"""One request while it is drawn: what the engine's thread tells becomes text, usage and events in the server's loop."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from diffpo.core.errors import NonFiniteLogitsError
from diffpo.sampling.running import Committed, Row
from diffpo.serve.choice_text import ChoiceText
from diffpo.serve.engine import ClosedError, Listener, QueueFullError
from diffpo.serve.errors import ApiError, server_failed, stopping
from diffpo.serve.served_model import Plan, ServedModel


@dataclass(frozen=True)
class Step:
    """What a call has brought one of the choices."""

    choice: int
    text: str
    """What is new before the first mask; often nothing."""
    event: dict[str, Any]
    """Which tokens were committed, where, by which call."""


class Drawing:
    """The completions of one request, from the moment they are submitted."""

    def __init__(self, model: ServedModel, plan: Plan, stops: tuple[str, ...]) -> None:
        """Submit the plan's rows. Raises ApiError where the queue is full, or the server is being stopped."""
        self.plan, self._engine = plan, model.engine
        denoiser, length = model.policy.denoiser, plan.decoding.length
        self.choices = [
            ChoiceText(model.policy.tokenizer, denoiser.stop_ids, length, stops) for _ in range(plan.num_rows)
        ]
        self.bounds = [math.nan] * plan.num_rows
        self._told: asyncio.Queue[Committed | Exception] = asyncio.Queue()
        self._keys = self._engine.keys(plan.num_rows)
        rows = [
            Row(key, plan.prompts[number // plan.n], plan.decoding, plan.seed + number)
            for number, key in enumerate(self._keys)
        ]
        try:
            self._engine.submit(rows, [self._listener()] * len(rows))
        except QueueFullError:
            running, waiting = self._engine.load()
            raise ApiError(
                429,
                f"the server is busy: {running} completions are drawn, and {waiting} wait; try again later, or start "
                "it with a larger --queue",
                code="queue_full",
            ) from None
        except ClosedError:
            raise stopping() from None

    async def steps(self) -> AsyncIterator[Step]:
        """Yield what each call brings until all choices are finished. Raises ApiError where the server fails."""
        while not all(choice.is_finished() for choice in self.choices):
            told = await self._told.get()
            if isinstance(told, Exception):
                raise _explained(told)
            index = told.key - self._keys.start
            choice = self.choices[index]
            if choice.is_finished():  # the call was running when it was taken out
                continue
            self.bounds[index] = told.entropy_bound
            text = choice.take(told)
            if choice.is_finished() and not told.is_done:
                self._engine.withdraw([told.key])
            tokens = [choice.token_text(token) for token in told.tokens]
            event = {"choice": index, "call": told.call, "positions": list(told.positions), "tokens": tokens}
            yield Step(index, text, event)

    def withdraw(self) -> None:
        """Give back the places of rows that are not done."""
        self._engine.withdraw(self._keys)

    def how(self) -> str:
        """Return how the completions were decoded, with the entropy bounds that a controller has chosen for them."""
        if self.plan.decoding.bound_controller is None or not all(map(math.isfinite, self.bounds)):
            return self.plan.how
        return f"{self.plan.how} {', '.join(f'{bound:.3g}' for bound in self.bounds)}, chosen by the model"

    def usage(self) -> dict[str, Any]:
        """Return OpenAI's counts; `nfe`, the denoiser calls of all choices; and tokens of the answers per call."""
        completion = sum(choice.num_tokens for choice in self.choices)
        nfe = sum(choice.nfe for choice in self.choices)
        return {
            "prompt_tokens": self.plan.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.plan.prompt_tokens + completion,
            "nfe": nfe,
            "tokens_per_call": completion / max(1, nfe),
        }

    def _listener(self) -> Listener:
        loop = asyncio.get_running_loop()

        def tell(told: Committed | Exception) -> None:
            with suppress(RuntimeError):  # the loop has ended before the engine
                loop.call_soon_threadsafe(self._told.put_nowait, told)

        return tell


def _explained(error: Exception) -> ApiError:
    if isinstance(error, ClosedError):
        return stopping()
    if isinstance(error, NonFiniteLogitsError):
        return ApiError(500, str(error), code="non_finite_logits")
    if "out of memory" in str(error):
        return ApiError(
            503,
            "the server's device has no memory left for this; lower max_tokens, or start it with a smaller --batch",
            code="out_of_memory",
        )
    return server_failed(error)
