"""Tell one model's weights from another's without reading all of them."""

import hashlib
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.models.manifest import PROGRESS
from diffpo.models.model_paths import read_json, weight_files

SAMPLES, SAMPLE_BYTES = 64, 2**16
"""What is read of a weight file: so many stretches of so many bytes, evenly spaced; all of it where it has no more."""


def fingerprint(folder: Path) -> str:
    """Return a hash of the weight files in a model's folder: their names, sizes and samples of their bytes.

    A copy in another folder has the same. Raises UserError where a weight file is missing.
    """
    found = hashlib.sha256()
    for file in weight_files(folder):
        size = file.stat().st_size
        found.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            if size <= SAMPLES * SAMPLE_BYTES:
                found.update(content.read())
                continue
            for sample in range(SAMPLES):
                content.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                found.update(content.read(SAMPLE_BYTES))
    return found.hexdigest()


def check_base_of(adapter: Path, base: Path) -> None:
    """Raise UserError where a run's adapter was trained on another model than the one in `base` now.

    Adapters that no run has written say nothing about their base's weights.
    """
    known = read_json(adapter / PROGRESS).get("base") if (adapter / PROGRESS).is_file() else None
    if known is not None and fingerprint(base) != known:
        raise UserError(
            f"{adapter} holds an adapter of another model than the one in {base} now; bring back the one that it was "
            "trained on"
        )
