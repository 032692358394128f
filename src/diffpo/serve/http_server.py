"""uvicorn's server as it is used here: what it says itself is in OpenAI's format too, and it ends without waiting."""

import asyncio
import json
import logging
import socket
from http import HTTPStatus
from types import FrameType

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from diffpo.serve.errors import ApiError
from diffpo.serve.stopping import Stopping

CLOSING_SECONDS = 2
"""For clients to take what they are told when the server is stopped, and for the denoiser call that is running."""
RECEIVING_SECONDS = 30.0
"""For a request to come whole, from when its connection is open or free."""
LOG = logging.getLogger("uvicorn.error")


class Protocol(H11Protocol):
    """HTTP/1.1, with errors in OpenAI's format for what is none, and an end for requests that do not come whole."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_deadline()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        self._set_deadline()

    def _set_deadline(self) -> None:
        """Wait for the rest of a request that has not come whole, its headers as its body, and for no other."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY) or self.transport.is_closing():
            self._drop_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(RECEIVING_SECONDS, self._give_up)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        has_begun = self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        told = f"the request has not come whole within {RECEIVING_SECONDS:g} seconds; send it anew"
        self._end(ApiError(408, told, code="request_timeout") if has_begun else None)

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read as HTTP, and close the connection."""
        self._end(ApiError(400, "the request is no HTTP/1.1 that can be read; send it anew", code="invalid_http"))

    def _end(self, told: ApiError | None) -> None:
        """Close the connection, with this answer unless another has begun."""
        if told is not None and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            reason = HTTPStatus(told.status).phrase.encode()
            body = json.dumps(told.body).encode()
            headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            for event in (
                h11.Response(status_code=told.status, headers=list(headers.items()), reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """Ends at SIGINT or SIGTERM, and returns then, whichever it was."""

    def __init__(self, app: FastAPI, stopping: Stopping) -> None:
        LOG.setLevel(logging.ERROR)
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ask the server to end; asked a second time it waits for no client."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell all clients that wait, then close."""
        LOG.setLevel(logging.CRITICAL)  # of a client that does not take its answer there is nothing to say
        self._stopping.begin()
        await super().shutdown(sockets)
