"""How a server ends: nobody who is being answered waits for what will not come."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from diffpo.serve.engine import Engine
from diffpo.serve.errors import stopping

T = TypeVar("T")


class Stopping:
    """Whether the server is being stopped, for all that it waits for."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._engines = tuple(engines)
        self._has_begun = asyncio.Event()

    def begin(self) -> None:
        """End all waiting, in the server's loop: completions that are drawn, and requests that are being read."""
        self._has_begun.set()
        for engine in self._engines:
            engine.stop()

    def close(self, seconds: float) -> bool:
        """Return whether all engines have come to rest, waiting that long for each."""
        return all(engine.close(seconds) for engine in self._engines)

    async def unless_begun(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work returns. Raises ApiError as soon as the server is being stopped."""
        task, end = asyncio.ensure_future(work), asyncio.ensure_future(self._has_begun.wait())
        try:
            await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise stopping()
            return task.result()
        finally:
            end.cancel()
            task.cancel()
