"""Spoil one byte of a file of a run's newest checkpoint: whoever would use it is told."""

import random
from collections.abc import Callable
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.models.manifest import CARD, whole_folder
from diffpo.models.model_paths import checkpoints
from diffpo.runs.progress import ProgressBar
from diffpo.runs.resume import problems_on_resume


def flip(file: Path, draw: random.Random) -> Callable[[], None]:
    """Flip one to eight bits of one byte of a file; return what puts it back."""
    content = file.read_bytes()
    at = draw.randrange(len(content))
    file.write_bytes(content[:at] + bytes([content[at] ^ draw.randrange(1, 256)]) + content[at + 1 :])

    def put_back() -> None:
        file.write_bytes(content)

    return put_back


def is_detected(newest: Path) -> bool:
    """Return whether both `--resume` and `load` see that a checkpoint is damaged."""
    try:
        whole_folder(newest)
    except UserError:
        return bool(problems_on_resume(newest))
    return False


def torture_by_flips(run: Path, count: int, seed: int) -> int:
    """Spoil so many bytes, one at a time and of each file in turn; return how many were detected."""
    draw, detected = random.Random(seed), 0
    newest = checkpoints(run)[-1]
    # The card is text that people may change, and that no loading reads.
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size and path.name != CARD)
    with ProgressBar("flips", count, unit="byte") as bar:
        for number in range(count):
            put_back = flip(files[number % len(files)], draw)
            detected += is_detected(newest)
            put_back()
            bar.update(number + 1, detected=detected)
    return detected
