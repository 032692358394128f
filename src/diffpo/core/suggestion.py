"""What a misspelt word may have been meant for, as the end of a message: `; did you mean 'policy'?`."""

import difflib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

VERBS_ELSEWHERE = {
    "train": ("rl", "sft"),
    "finetune": ("sft",),
    "grpo": ("rl",),
    "ppo": ("rl",),
    "evaluate": ("eval",),
    "test": ("eval",),
    "generate": ("sample",),
    "predict": ("sample",),
    "chat": ("sample",),
    "plot": ("report",),
}
KEYS_ELSEWHERE = {
    "learning_rate": "lr",
    "num_generations": "group_size",
    "max_steps": "steps",
    "per_device_train_batch_size": "micro_batch_size",
    "beta": "kl_coef",
    "epsilon": "clip",
    "max_completion_length": "completion_length",
}
KINDS_ELSEWHERE = {
    "grpo": "clipped-surrogate",
    "dr-grpo": "clipped-surrogate",
    "ppo": "clipped-surrogate",
    "wd1": "weighted-likelihood",
    "dmpo": "distribution-matching",
    "expert": "expert-iteration",
}
"""What others' verbs, settings and objectives are called here, where no spelling leads from one to the other."""


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Return the known word that is nearest to this one, if one is near: `cutoff` is 1 for equal words alone."""
    return difflib.get_close_matches(word, known, n=1, cutoff=cutoff)


def suggestion(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a question for the nearest known word; empty where none is as near as `closest` asks."""
    return "".join(f"; did you mean {guess!r}?" for guess in closest(word, known, cutoff))


def suggested_kind(word: str, known: Iterable[str]) -> str:
    """Return a question for what a kind of a table is called here, by its own name or other libraries'; else empty."""
    kinds = [*known]
    elsewhere = {name: kind for name, kind in KINDS_ELSEWHERE.items() if kind in kinds}
    if near := closest(word, [*kinds, *elsewhere]):
        return f"; did you mean {elsewhere.get(near[0], near[0])!r}?"
    return ""


def suggested_path(path: str) -> str:
    """Return a question for the file or folder beside `path` whose name is nearest to its; empty where none is near."""
    with suppress(OSError, ValueError):
        given = Path(path).expanduser()
        return suggestion(str(given), (str(given.with_name(there.name)) for there in given.parent.iterdir()))
    return ""


def suggested_choice(message: str) -> str:
    """Return a question for a message of a library that says `'x' is not one of 'a', 'b'`, or of others as `''`."""
    found = re.search(r"'([^']*)' is not one of (.*)", message)
    return suggestion(found[1], re.findall(r"'([^']*)'", found[2])) if found else ""
