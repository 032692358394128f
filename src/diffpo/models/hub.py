"""Models and data sets by their hub name: what is cached, else a download, else one sentence within seconds."""

import re
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

Result = TypeVar("Result")
Kind = Literal["model", "dataset"]

ANSWER_WITHIN = 4.0
"""Seconds for the hub to answer at all; a name that cannot be resolved takes a machine far longer to give up."""


def is_hub_name(text: str) -> bool:
    """ORG/NAME or ORG/NAME@REVISION: a branch, a tag or a commit.

    Unless ORG is a folder here: then it is a path, and a mistyped one is not asked of the hub.
    """
    is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+(/[\w.-]+)*)?", text) is not None
    return is_name and not Path(text.partition("/")[0]).is_dir()


def short_name(text: str) -> str:
    """What a model is called in files and tables: its folder's name, or NAME or NAME@REVISION of the hub."""
    return Path(text).name if Path(text).exists() else text.partition("/")[2].replace("/", "-")


def check_place(text: str) -> None:
    """Raises UserError for what is neither a folder here nor a hub name. The hub itself is not asked."""
    if not Path(text).is_dir() and not (is_hub_name(text) and not Path(text).exists()):
        what = "is a file" if Path(text).exists() else "does not exist"
        raise UserError(f"{text} {what}; name a folder with a model, a run's folder, or a model's hub name")


def snapshot(name: str, kind: Kind, patterns: Sequence[str], is_whole: Callable[[Path], bool]) -> Path:
    """The folder with the repository's files that match `patterns`: the cached one if it `is_whole`, else a download.

    Raises UserError, within 5 seconds where the hub cannot be reached, that says how to get the files by other means.
    """
    repository, _, revision = name.partition("@")
    wanted: dict[str, Any] = {"repo_type": kind, "allow_patterns": list(patterns), "revision": revision or None}
    try:
        cached = Path(snapshot_download(repository, **wanted, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    else:
        if is_whole(cached):
            return cached
    try:
        about: dict[str, Any] = {"repo_type": kind, "revision": revision or None, "timeout": ANSWER_WITHIN - 1}
        _attempt(lambda: HfApi().repo_info(repository, **about), ANSWER_WITHIN)
        return Path(_attempt(lambda: snapshot_download(repository, **wanted), None))
    except _FailedError as failed:
        raise UserError(_advice(name, kind, failed.error)) from failed.error


class _FailedError(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _attempt(call: Callable[[], Result], seconds: float | None) -> Result:
    """The call's result, from a thread of its own: no library bounds how long it waits for a name to be resolved."""
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        error = future.exception(timeout=seconds)
    except FutureTimeoutError as late:
        raise _FailedError(late) from late
    if error is not None:
        raise _FailedError(error)
    return future.result()


def _advice(name: str, kind: Kind, error: BaseException) -> str:
    what = {"model": "model", "dataset": "data set"}[kind]
    repository, _, revision = name.partition("@")
    page = f"{constants.ENDPOINT}/{'' if kind == 'model' else 'datasets/'}{repository}"
    if isinstance(error, RevisionNotFoundError):
        return f"the {what} {repository} on the hub has no revision {revision}; name a branch, a tag or a commit of it"
    if isinstance(error, GatedRepoError):
        return f"the {what} {name} asks for consent: give it at {page}, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return f"{name} is neither a folder here nor a {what} on the hub; check the name, or log in: `hf auth login`"
    option = ("" if kind == "model" else "--repo-type dataset ") + (f"--revision {revision} " if revision else "")
    folder = repository.split("/")[1]
    return (
        f"the {what} {name} is neither a folder here nor cached, and the hub at {constants.ENDPOINT} cannot be reached "
        f"({type(error).__name__}); where it can be, run `hf download {repository} {option}--local-dir {folder}`, "
        f"bring the folder here and name it instead"
    )
