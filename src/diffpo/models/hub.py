"""Fetch models and data sets from the hub: the cached copy, else a download, else one sentence within seconds."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from diffpo.core.errors import UserError
from diffpo.core.hub_name import HubName, parse_hub_name
from diffpo.core.printable import without_secrets
from diffpo.core.suggestion import suggested_path

Result = TypeVar("Result")
Kind = Literal["model", "dataset"]

DEMO_BASE = "runs/demo/base"
"""From which the built-in tiny recipes begin."""
ANSWER_WITHIN = 4.0
"""Seconds until the hub must have answered; without a limit, an address that cannot be resolved takes far longer."""


def is_hub_name(text: str) -> bool:
    """Return whether a text is a model's hub name, ORG/NAME or ORG/NAME@REVISION.

    Where ORG is a folder here, the text is a path, so that the hub is not asked for a mistyped one.
    """
    name = parse_hub_name(text)
    return name is not None and name.configuration is None and not Path(text.partition("/")[0]).is_dir()


def short_name(text: str) -> str:
    """Return a model's name for files and tables: its folder's name, or NAME or NAME@REVISION of the hub."""
    return Path(text).name if Path(text).exists() else text.partition("/")[2].replace("/", "-")


def check_model_path(text: str) -> None:
    """Raise UserError where a text is neither a folder here nor a hub name. The hub itself is not asked."""
    if not text:
        raise UserError("the name of the model is empty; name a folder with a model, a run's folder, or a hub name")
    if not Path(text).is_dir() and not (is_hub_name(text) and not Path(text).exists()):
        what = "is a file" if Path(text).exists() else f"does not exist{suggested_path(text)}"
        if text == DEMO_BASE:
            what += "; it is the default of `base` in built-in recipes, and diffpo demo trains it: give yours, base=DIR"
        raise UserError(f"{text} {what}; name a folder with a model, a run's folder, or a model's hub name")


def fetch(text: str, kind: Kind, patterns: Sequence[str], is_complete: Callable[[Path], bool]) -> Path:
    """Return the folder with the files of a repository that match `patterns`.

    It is the cached folder if that `is_complete`, else a download. Raises UserError, within 5 seconds where the hub
    cannot be reached, which says how to get the files in another way.
    """
    cached = cached_folder(text, kind, patterns)
    if cached is not None and is_complete(cached):
        return cached
    name, wanted = _request(text, kind, patterns)
    try:
        query: dict[str, Any] = {"repo_type": kind, "revision": name.revision, "timeout": ANSWER_WITHIN - 1}
        _call_with_limit(lambda: HfApi().repo_info(name.repository, **query), ANSWER_WITHIN)
        return Path(_call_with_limit(lambda: snapshot_download(name.repository, **wanted), None))
    except _FailedError as failed:
        raise UserError(_explain(text, name, kind, failed.error)) from failed.error


def cached_folder(text: str, kind: Kind, patterns: Sequence[str]) -> Path | None:
    """Return the folder in the hub's cache with what is there of a repository, complete or not; None where nothing is.

    The hub is not asked.
    """
    name, wanted = _request(text, kind, patterns)
    try:
        return Path(snapshot_download(name.repository, **wanted, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _request(text: str, kind: Kind, patterns: Sequence[str]) -> tuple[HubName, dict[str, Any]]:
    """Return a repository's name, and the arguments that `snapshot_download` needs besides."""
    name = parse_hub_name(text) or HubName(text)  # the hub's client refuses what is no name
    return name, {"repo_type": kind, "allow_patterns": list(patterns), "revision": name.revision}


class _FailedError(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _call_with_limit(call: Callable[[], Result], seconds: float | None) -> Result:
    """Return the call's result. Raises _FailedError with its error, or with a timeout after `seconds`.

    The call runs in a thread of its own: no library limits how long it waits for an address to be resolved.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised by the caller below
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        error = future.exception(timeout=seconds)
    except FutureTimeoutError as late:
        raise _FailedError(late) from late
    if error is not None:
        raise _FailedError(error)
    return future.result()


def _explain(text: str, name: HubName, kind: Kind, error: BaseException) -> str:
    """Return the sentence for the user: what the hub's error means and what to do about it."""
    what = {"model": "model", "dataset": "data set"}[kind]
    repository, revision = name.repository, name.revision
    hub = without_secrets(constants.ENDPOINT)  # HF_ENDPOINT may hold a password
    page = f"{hub}/{'' if kind == 'model' else 'datasets/'}{repository}"
    if isinstance(error, RevisionNotFoundError):
        return f"the {what} {repository} on the hub has no revision {revision}; name a branch, a tag or a commit of it"
    if isinstance(error, GatedRepoError):
        return f"the {what} {text} asks for consent: give it at {page}, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return f"{text} is neither a folder here nor a {what} on the hub; check the name, or log in: `hf auth login`"
    option = ("" if kind == "model" else "--repo-type dataset ") + (f"--revision {revision} " if revision else "")
    folder = repository.rpartition("/")[2]
    return (
        f"the {what} {text} is neither a folder here nor cached, and the hub at {hub} cannot be reached "
        f"({type(error).__name__}); where it can be, run `hf download {repository} {option}--local-dir {folder}`, "
        f"bring the folder here and name it instead"
    )
