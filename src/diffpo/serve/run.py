"""`diffpo serve`: bind, load, serve until Ctrl-C."""

import errno
import gc
import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from diffpo.core.errors import UserError
from diffpo.core.output import say, warn
from diffpo.models.chat import turn_end_ids
from diffpo.recipes.stored import sampled_length
from diffpo.recipes.tables import DeviceSettings
from diffpo.runs.device import configure_torch_, resolve_device
from diffpo.sampling.policy import Policy, load
from diffpo.serve.app import make_app
from diffpo.serve.engine import Engine
from diffpo.serve.http_server import CLOSING_SECONDS, Server
from diffpo.serve.served_model import ServedModel
from diffpo.serve.stopping import Stopping


@dataclass(frozen=True)
class ServeSettings:
    """Where a server listens, and how much it takes."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: one that is free."""
    length: int | None = None
    """Tokens of a completion that does not say how long; None: the model's training's."""
    most_running: int = 64
    most_waiting: int = 256
    most_tokens: int | None = None
    """Of prompt and completion together; None: the model's positions."""


def run_serve(models: Sequence[str], settings: ServeSettings, device: DeviceSettings) -> None:
    """Serve models until SIGINT or SIGTERM, then return.

    Raises UserError for what is wrong with a model, the host or the port.
    """
    names = [name.rstrip("/") or name for name in models]
    _check_names(names)
    lengths = [_length(name, settings.length) for name in names]
    with bound_socket(settings.host, settings.port) as listening:
        configure_torch_(device)
        served = {
            name: serve_model(name, load(name, *resolve_device(device)), length, settings)
            for name, length in zip(names, lengths, strict=True)
        }
        server, stopping = make_server(served, settings.host)
        port = listening.getsockname()[1]
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        if not is_loopback(settings.host):
            warn(
                f"diffpo: {settings.host} can be reached from other machines, and whoever reaches it may draw from the "
                "models: there is no password; use --host 127.0.0.1, or put a proxy with one in front"
            )
        say(f"serving {', '.join(names)}")
        say(f"page: http://{shown}:{port}/   OpenAI's API: http://{shown}:{port}/v1   (Ctrl-C ends it)")
        gc.collect()
        gc.freeze()  # else bodies of many arrays, and the end, go again and again through all that was loaded
        server.run(sockets=[listening])
        has_ended = False
        with suppress(KeyboardInterrupt):  # asked again, it does not wait
            has_ended = stopping.close(CLOSING_SECONDS)
        say("stopped")
        if not has_ended:  # a denoiser call cannot be interrupted, and Python would crash on leaving it
            os._exit(0)


def make_server(models: Mapping[str, ServedModel], host: str) -> tuple[Server, Stopping]:
    """Return a server of these models, by name, that listens on `host`, and what ends it."""
    stopping = Stopping(model.engine for model in models.values())
    return Server(make_app(models, allowed_hosts(host), stopping), stopping), stopping


def serve_model(name: str, policy: Policy, length: int | None, settings: ServeSettings) -> ServedModel:
    """Return a model with its engine, which waits for rows. Raises UserError where a completion cannot fit."""
    turn_end_ids(policy.tokenizer)  # a chat template that raises, or does not end, is told before anyone asks
    most_tokens = settings.most_tokens or policy.most_tokens
    if most_tokens > policy.most_tokens:
        raise UserError(f"--max-model-len is {most_tokens}, and {name} takes {policy.most_tokens}; lower it")
    if length is not None and length >= most_tokens:
        raise UserError(
            f"a completion of {name} has {length} tokens, and prompt and completion together at most {most_tokens}; "
            "lower --length, or raise --max-model-len"
        )
    policy.denoiser.model.eval()
    engine = Engine(policy.denoiser, policy.device, settings.most_running, settings.most_waiting)
    return ServedModel(name, policy, engine, most_tokens, length)


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that holds the port, before a model is loaded. Raises UserError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host {host} is no address of this machine ({error.strerror}); use 127.0.0.1") from error
    found = socket.socket(family, kind, protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            told = f"port {port} of {host} is in use; choose another with --port, or --port 0 for a free one"
        elif error.errno == errno.EACCES:
            told = f"port {port} is for the system's own services; choose one from 1024 up with --port"
        else:
            told = f"--host {host} is no address of this machine ({os.strerror(error.errno or 0)}); use 127.0.0.1"
        raise UserError(told) from error
    return found


def is_loopback(host: str) -> bool:
    """Return whether a host can be reached from this machine alone."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def allowed_hosts(host: str) -> list[str]:
    """Return what a request's Host header may name: this machine where it alone can reach the server, else anything."""
    if not is_loopback(host):
        return ["*"]
    return sorted({"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host})


def _check_names(names: Sequence[str]) -> None:
    """Raise UserError where a model is named twice: clients could not tell which, and its weights were there twice."""
    known: dict[str, str] = {}
    for name in names:
        place = os.path.realpath(name) if os.path.isdir(name) else name
        if place in known:
            both = f"{name} is named twice" if known[place] == name else f"{known[place]} and {name} are one folder"
            raise UserError(f"{both}; name each model once")
        known[place] = name


def _length(model: str, length: int | None) -> int | None:
    """Return the tokens of a completion, or None where no recipe says them.

    Raises UserError where there is no model.
    """
    sampled_length(model, length or 1)
    if length is None:
        try:
            return sampled_length(model, None)
        except UserError:
            say(f"{model} does not say how long its completions are: give --length, or each request max_tokens")
    return length
