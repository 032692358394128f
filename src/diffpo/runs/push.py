"""`diffpo push`: the files of a saved model that are its own, checked, to a repository of the Hugging Face hub.

Imports no torch.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from safetensors import SafetensorError, safe_open

from diffpo import __version__
from diffpo.core.errors import UserError
from diffpo.core.printable import without_secrets
from diffpo.models.manifest import CARD, EVALUATIONS, MANIFEST, OPTIMIZER, PROGRESS, whole_folder
from diffpo.models.model_paths import (
    HUB_FILES,
    base_of,
    first_line,
    has_shards,
    has_tokenizer,
    is_adapter,
    weight_files,
)

OWN = (MANIFEST, OPTIMIZER, PROGRESS, EVALUATIONS)
"""Files beside a model that are the run's, and not its."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Published:
    """What of a model's folder is sent."""

    folder: Path
    names: tuple[str, ...]

    def by_hand(self, repo: str) -> str:
        """Return the command that sends the same files."""
        words = ["hf", "upload", repo, str(self.folder), ".", "--include", *self.names]
        return shlex.join(words)


def published_files(path: Path, repo: str) -> Published:
    """Return what of a model's folder, or of a run's last whole checkpoint, belongs on the hub.

    Raises UserError where there is no model or one that is not whole, where it is of no use to others as it is, and for
    a repository that has no name of the hub's. The hub is not asked.
    """
    check_repo(repo)
    if not path.is_dir():
        raise UserError(f"{path} is no folder here; name a model's folder, or a run's, then the repository: ORG/NAME")
    folder = whole_folder(path)
    if has_shards(folder):
        raise UserError(f"{folder} has its weights in shards; make one model of it: diffpo merge {path} --out DIR")
    if is_adapter(folder):
        base = Path(base_of(folder))
        if base.is_absolute() or base.exists():
            raise UserError(
                f"{folder} holds an adapter of {base}, which nobody else has; make one model of both and push that: "
                f"diffpo merge {path} --out DIR"
            )
        weights = [folder / ADAPTER_WEIGHTS]
    else:
        weights = weight_files(folder)
    if not has_tokenizer(folder):
        raise UserError(f"{folder} has no tokenizer.json; bring the tokenizer files that belong to the model")
    for file in weights:
        check_readable(file)
    found = [
        file.name
        for file in sorted(folder.iterdir())
        if file.is_file()
        and (file.name == CARD or any(file.match(pattern) for pattern in HUB_FILES))
        and not any(file.match(pattern) for pattern in OWN)
    ]
    return Published(folder, tuple(found))


def check_repo(repo: str) -> None:
    """Raise UserError for a text that is no repository's name."""
    if Path(repo).is_dir():
        raise UserError(f"{repo} is a folder here; the model's folder comes first, then the repository: ORG/NAME")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(
            f"{repo!r} cannot be a repository of the hub ({first_line(error)}); name it ORG/NAME"
        ) from error


def check_readable(file: Path) -> None:
    """Raise UserError for weights that are missing or cut: a header that does not fit the file's size."""
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (OSError, SafetensorError) as error:
        told = first_line(error)
        raise UserError(f"{file} cannot be read ({told}); bring the whole file, or save the model anew") from error


def show_files(files: Published, repo: str) -> str:
    """Return the files with their sizes, and where they go."""
    sizes = {name: (files.folder / name).stat().st_size for name in files.names}
    lines = [f"{files.folder} to {repo}: {len(sizes)} files, {in_units(sum(sizes.values()))}"]
    lines += [f"  {in_units(size):>9s}  {name}" for name, size in sizes.items()]
    if CARD not in sizes:
        lines.append(f"  without a {CARD}: write one, so that others know what it is")
    return "\n".join(lines)


def in_units(size: int) -> str:
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size} B"


def run_push(files: Published, repo: str, private: bool) -> str:
    """Send the files, in one commit, to a repository that is made where it is not there; return its address.

    Raises UserError, with what to do instead, where there is no token, the hub cannot be reached or refuses, and for
    `private` where the repository is there and public.
    """
    hub = without_secrets(constants.ENDPOINT)
    instead = f"where it can be, run: {files.by_hand(repo)}"
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set, so {hub} is not asked; unset it, or {instead}")
    if get_token() is None:
        raise UserError(
            f"there is no token for {hub}; log in by `hf auth login`, or set HF_TOKEN to one that may write to {repo}"
        )
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        is_public = private and not api.repo_info(url.repo_id).private
        if not is_public:
            api.upload_folder(
                repo_id=url.repo_id,
                folder_path=files.folder,
                allow_patterns=list(files.names),
                commit_message=f"Upload by diffpo {__version__}",
            )
    except HfHubHTTPError as error:
        raise UserError(refused(error, repo, hub)) from error
    except Exception as error:  # of the library under the hub's client, which changes
        raise UserError(f"{hub} cannot be reached, or broke off ({type(error).__name__}); {instead}") from error
    if is_public:
        raise UserError(f"{url} is there already and public; make it private in its settings, or choose another")
    return str(url)


def refused(error: HfHubHTTPError, repo: str, hub: str) -> str:
    """Return the sentence about a hub's refusal."""
    status = error.response.status_code
    told = without_secrets(first_line(error))
    if status in (401, 403):
        return (
            f"{hub} does not let this token write to {repo} ({status}); log in by `hf auth login` with one that may, "
            "or name a repository of your own"
        )
    return f"{hub} refuses to take {repo} ({told}); mend that, and give the same command again"
