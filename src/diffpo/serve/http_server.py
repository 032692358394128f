"""uvicorn's server as it is used here: what it says itself is in OpenAI's format too, and it ends without waiting."""

import json
import logging
import socket
from types import FrameType

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from diffpo.serve.errors import ApiError
from diffpo.serve.stopping import Stopping

CLOSING_SECONDS = 2
"""For clients to take what they are told when the server is stopped, and for the denoiser call that is running."""
LOG = logging.getLogger("uvicorn.error")


class Protocol(H11Protocol):
    """HTTP/1.1, with errors in OpenAI's format for what is none."""

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read as HTTP, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer has begun, and another cannot
            told = ApiError(400, "the request is no HTTP/1.1 that can be read; send it anew", code="invalid_http")
            body = json.dumps(told.body).encode()
            headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            for event in (
                h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
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
