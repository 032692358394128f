"""The application: routes, errors in OpenAI's format, and what browsers are told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from diffpo.core.suggestion import suggestion
from diffpo.serve import answers
from diffpo.serve.answers import Kind
from diffpo.serve.drawing import Drawing
from diffpo.serve.errors import ApiError, server_failed
from diffpo.serve.gate import Gate
from diffpo.serve.json_body import LARGEST_BODY, parse
from diffpo.serve.page import page
from diffpo.serve.reading import Request as Asking
from diffpo.serve.reading import read_chat, read_completion
from diffpo.serve.served_model import ServedModel
from diffpo.serve.stopping import Stopping
from diffpo.serve.tables import Asked

NOBODY_READS = 499
"""The status, which no client sees, of an answer whose client has gone."""


def make_app(models: Mapping[str, ServedModel], allowed_hosts: Sequence[str], stopping: Stopping) -> FastAPI:
    """Return the application that serves these models, by name.

    `allowed_hosts`: names of this server that a request may have in its Host header; ["*"]: any. Others are refused: a
    page of another site whose name was made to point here (DNS rebinding) is not answered.
    """

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(Gate, allowed_hosts=[*allowed_hosts])
    html, headers = page()

    @app.get("/")
    async def show_page() -> Response:
        return HTMLResponse(html, headers=headers)

    @app.get("/health")
    async def health() -> Response:
        loads = {name: model.engine.load() for name, model in models.items()}
        return JSONResponse(
            {name: {"running": running, "waiting": waiting} for name, (running, waiting) in loads.items()}
        )

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [model.describe() for model in models.values()]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        return JSONResponse(_model(models, name).describe())

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _answer("chat", await stopping.unless_begun(_draw(read_chat, models, request)), request)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await _answer("text", await stopping.unless_begun(_draw(read_completion, models, request)), request)

    @app.exception_handler(ApiError)
    async def refuse(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(ClientDisconnect)
    async def forget(_: Request, __: Exception) -> Response:
        return Response(status_code=NOBODY_READS)

    @app.exception_handler(HTTPException)
    async def refuse_address(request: Request, error: HTTPException) -> Response:
        told = ApiError(
            error.status_code,
            f"{request.method} {request.scope['path']:.200} is not served; there are POST /v1/chat/completions, POST "
            "/v1/completions, GET /v1/models, GET /health, and the page at GET /",
            code="method_not_allowed" if error.status_code == 405 else "unknown_url",
        )
        return JSONResponse(told.body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> Response:
        return JSONResponse(server_failed(error).body, 500)

    return app


async def _draw(
    read: Callable[[Mapping[str, Any]], Asking], models: Mapping[str, ServedModel], request: Request
) -> tuple[Asking, Drawing]:
    """Read a request, and submit what it asks for."""
    asking = read(parse(await _body(request)))
    model = _model(models, asking.asked.model)
    return asking, Drawing(model, await model.plan(asking), asking.asked.stop)


async def _answer(kind: Kind, drawn: tuple[Asking, Drawing], request: Request) -> Response:
    asked, drawing = drawn[0].asked, drawn[1]
    head = answers.head(kind, asked.model, drawing.plan.seed)
    if asked.stream:
        return _Stream(_chunks(kind, head, asked, drawing), drawing)
    events: list[dict[str, Any]] = []
    try:
        if not await _collect(request, drawing, events):
            return Response(status_code=NOBODY_READS)
    finally:
        drawing.withdraw()
    shown = events if asked.unmask_events else None
    return JSONResponse(answers.whole(kind, head, drawing.choices, drawing.usage(), drawing.how(), shown))


async def _collect(request: Request, drawing: Drawing, events: list[dict[str, Any]]) -> bool:
    """Wait until all is drawn, and return True; False as soon as the client has gone."""

    async def draw() -> None:
        events.extend([step.event async for step in drawing.steps()])

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.create_task(draw()), asyncio.create_task(wait_until_gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError, ApiError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _chunks(kind: Kind, head: dict[str, Any], asked: Asked, drawing: Drawing) -> AsyncIterator[str]:
    """Yield the server-sent events of an answer. What fails after the first of them is told in one, too."""
    no_events: dict[str, Any] = {"unmask_events": []} if asked.unmask_events else {}
    if kind == "chat":
        for index in range(len(drawing.choices)):
            yield answers.event(answers.chunk(kind, head, index, None) | no_events)
    try:
        async for step in drawing.steps():
            extra = {"unmask_events": [step.event]} if asked.unmask_events else {}
            finish_reason = drawing.choices[step.choice].finish_reason
            if step.text or extra:
                yield answers.event(answers.chunk(kind, head, step.choice, step.text) | extra)
            if finish_reason is not None:
                yield answers.event(answers.chunk(kind, head, step.choice, "", finish_reason) | no_events)
    except Exception as error:
        yield answers.event((error if isinstance(error, ApiError) else server_failed(error)).body)
        if not isinstance(error, ApiError):
            raise  # a mistake of ours, whose traceback is wanted
        return
    if asked.stream_options is not None and asked.stream_options.include_usage:
        last = answers.last_chunk(kind, head, usage=drawing.usage(), decoding=drawing.how())
        yield answers.event(last | no_events)
    yield answers.DONE


class _Stream(StreamingResponse):
    """Server-sent events that give the request's places back however they end: also where the client goes away."""

    def __init__(self, chunks: AsyncIterator[str], drawing: Drawing) -> None:
        super().__init__(
            chunks, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._drawing = drawing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._drawing.withdraw()


async def _body(request: Request) -> bytes:
    """Return the body of a request.

    Raises ApiError for one that is too large, or not called JSON: what a page of another site may send without asking
    first is called something else.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        told = "the body should be JSON, and be called so: Content-Type: application/json"
        raise ApiError(415, told, code="invalid_content_type")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            told = f"the body is larger than {LARGEST_BODY // 2**20} MiB; send a shorter one"
            raise ApiError(413, told, code="body_too_large")
    return bytes(body)


def _model(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    if name in models:
        return models[name]
    told = f"there is no model {name!r:.200}{suggestion(name, models)} (there are: {', '.join(models)})"
    raise ApiError(404, told, "model", "model_not_found")
