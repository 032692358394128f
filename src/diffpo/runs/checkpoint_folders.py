"""Folders of checkpoints get their names when they are whole, and lose them before anything of them is removed."""

import shutil
from pathlib import Path

from diffpo.core.files import flush_entry
from diffpo.models.model_paths import CHECKPOINT, METRICS, RECIPE

WRITING, REPLACED = ".tmp", ".replaced"
"""Endings of hidden folders: a checkpoint that is being written or removed, and one that another is to replace."""


def hidden_folder(final: Path) -> Path:
    """Return where a checkpoint is while it is written or removed."""
    return final.with_name(f".{final.name}{WRITING}")


def put_in_place(temporary: Path, final: Path) -> None:
    """Give a new checkpoint its name. One that has the name already is removed when that is done."""
    replaced = final.with_name(f".{final.name}{REPLACED}")
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    flush_entry(final.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; where that is interrupted, no half of it has a checkpoint's name."""
    doomed = hidden_folder(checkpoint)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def tidy(run: Path) -> None:
    """Remove what a process has left that ended while it wrote to the run, and undo a replacement that was half done.

    No other process may be at work on the run.
    """
    for left in run.glob(f".{CHECKPOINT}*{REPLACED}"):
        final = run / left.name.removeprefix(".").removesuffix(REPLACED)
        if final.exists():
            shutil.rmtree(left)
        else:
            left.rename(final)
    for left in run.glob(f".{CHECKPOINT}*{WRITING}"):
        shutil.rmtree(left)
    for name in (RECIPE, METRICS):
        for half in run.glob(f".{name}.*{WRITING}"):  # of `write_whole`
            half.unlink()
