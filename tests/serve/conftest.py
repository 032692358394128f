"""A server in this process, with tiny random models, and OpenAI's client for it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from openai import OpenAI
from tests.helpers.chat_templates import LLADA, tokenizer_with
from tests.helpers.families import FAMILIES
from tests.helpers.risk import priced_sampler, risk_model
from transformers import PreTrainedTokenizerFast

from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.denoiser_output import DenoiserOutput
from diffpo.models.loading import make_denoiser
from diffpo.models.tokenizer import char_tokenizer
from diffpo.sampling.controller import Controller
from diffpo.sampling.policy import Policy
from diffpo.serve.engine import Engine
from diffpo.serve.run import ServeSettings, bound_socket, make_server, serve_model
from diffpo.serve.served_model import ServedModel
from diffpo.tasks.sudoku import Sudoku

LENGTH = 12
SETTINGS = ServeSettings(most_tokens=64)


def random_policy(tokenizer: PreTrainedTokenizerFast) -> Policy:
    """A random model whose conditionals are far from flat and depend on the prompt."""
    ids = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = FAMILIES["llada"](32, 48, 2, vocab_size=len(tokenizer), initializer_range=0.3, **ids)
    return Policy(make_denoiser(model, tokenizer), tokenizer)


class Gated:
    """A denoiser whose calls each wait for a permit."""

    def __init__(self, denoiser: ModelDenoiser) -> None:
        self.mask_id, self.stop_ids = denoiser.mask_id, denoiser.stop_ids
        self.rows: list[int] = []
        """Of each call."""
        self.permits = threading.Semaphore(0)
        self._denoiser = denoiser

    def predict(self, canvas: torch.Tensor, attention_mask: torch.Tensor, at: torch.Tensor) -> DenoiserOutput:
        self.permits.acquire(timeout=20)
        self.rows.append(len(canvas))
        return self._denoiser.predict(canvas, attention_mask, at)


class Served:
    """The running server."""

    def __init__(self, models: dict[str, ServedModel], gated: Gated, port: int) -> None:
        self.models, self.gated, self.port = models, gated, port
        self.url = f"http://127.0.0.1:{port}"
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=30)

    def wait_for_load(self, name: str, running: int, waiting: int) -> None:
        """Return once that many completions are drawn, and wait."""
        deadline = time.monotonic() + 15
        while (load := self.models[name].engine.load()) != (running, waiting):
            assert time.monotonic() < deadline, load
            time.sleep(0.01)


@contextmanager
def serving() -> Iterator[Served]:
    tiny = random_policy(char_tokenizer(Sudoku().alphabet))
    chat = random_policy(tokenizer_with(LLADA))
    learned = replace(tiny, controller=Controller(initial_bound=0.7, hidden=8), sampler=priced_sampler(risk_model(32)))
    gated = Gated(chat.denoiser)
    models = {
        "tiny": serve_model("tiny", tiny, LENGTH, SETTINGS),
        "chat": serve_model("chat", chat, LENGTH, SETTINGS),
        "learned": serve_model("learned", learned, 16, SETTINGS),
        "lengthless": serve_model("lengthless", chat, None, SETTINGS),
        "gated": ServedModel("gated", chat, Engine(gated, chat.device, 2, 1), 64, LENGTH),
    }
    listening = bound_socket("127.0.0.1", 0)
    server, stopping = make_server(models, "127.0.0.1")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    served = Served(models, gated, listening.getsockname()[1])
    try:
        with served.client:
            yield served
    finally:
        server.should_exit = True
        for _ in range(1000):
            gated.permits.release()
        thread.join()
        assert stopping.close(20.0)
        listening.close()


@pytest.fixture(scope="package")
def served() -> Iterator[Served]:
    with serving() as found:
        yield found
