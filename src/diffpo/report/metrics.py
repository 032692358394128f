"""The log of a training run: the metrics that the page draws, and their numbers from a file of any length."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from diffpo.core.errors import UserError
from diffpo.recipes.renamed import renamed_metric
from diffpo.report.fields import LARGEST, MOST_CALLS, NEARLY, FieldError, number, whole, wrong
from diffpo.statistics.intervals import FEWEST_CALLS

RL_CURVES = {
    "accuracy": "training problems solved",
    "nfe": "denoiser calls per problem",
    "kl": "KL to the reference, nats per token",
    "importance_weight_ess": "effective sample size of importance weights",
    "importance_weight_capped": "importance weights capped",
    "group_weight_ess": "effective sample size within groups",
    "clip_fraction": "policy ratios clipped",
    "frac_reward_zero_std": "groups with nothing to learn",
    "bound_median": "median entropy bound",
    "bound_log_std_across_prompts": "spread of log bound across prompts",
    "bound_log_sigma": "spread of log bound for one prompt",
}
"""The metrics of RL that the page draws, with what it calls them."""
SFT_CURVES = {"loss": "loss", "accuracy": "accuracy on validation"}
DRAWN = {"step", "denoiser_calls", *RL_CURVES, *SFT_CURVES}
SHARES = {
    "accuracy",
    "importance_weight_ess",
    "importance_weight_capped",
    "group_weight_ess",
    "clip_fraction",
    "frac_reward_zero_std",
}
"""Metrics that are fractions and are shown in percent."""
UNBOUNDED = {"loss", "kl"}
MOST_COUNTED = 10**15
"""Steps or denoiser calls of a run."""

MOST_LINES = 20_000
"""Of a log of more than twice as many lines, every second, fourth, eighth, ... is drawn, and the last."""
LONGEST_LINE = 2**24


def read_metrics(path: Path) -> tuple[Mapping[str, float], ...]:
    """Return the numbers that are drawn, of at most `2 * MOST_LINES` lines.

    Null, NaN, and losses and KLs that no axis reaches are left out.

    Raises UserError for a line that is no JSON object, for metrics under names that have changed, and for a value that
    is drawn and that the metric cannot have.
    """
    kept: list[dict[str, float]] = []
    every, count, row = 1, 0, None
    with path.open("rb") as file:
        for number, line in _whole_lines(file, path):
            row = _drawn(parse_object(line, path, number), path, number)
            if count % every == 0:
                kept.append(row)
            count += 1
            if len(kept) == 2 * MOST_LINES:
                kept, every = kept[::2], 2 * every
    if row is not None and (count - 1) % every:
        kept.append(row)
    return tuple(kept)


def parse_object(line: bytes, path: Path, first_line: int) -> dict[str, Any]:
    """Return the JSON object in a text that begins at a line of a file. Raises UserError where it is none."""
    advice = "repair or remove the file and try again."
    try:
        found = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        at = first_line + error.lineno - 1
        raise UserError(f"{path}:{at}: not JSON ({error.msg}); {advice}") from error
    except UnicodeDecodeError as error:
        at = first_line + line[: error.start].count(b"\n")
        raise UserError(f"{path}:{at}: not JSON, for it is no UTF-8; {advice}") from error
    except (ValueError, RecursionError) as error:  # too many digits, too many nested brackets
        told = str(error).partition(";")[0]
        raise UserError(f"{path}:{first_line}: not JSON that can be read ({told}); {advice}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}:{first_line}: a JSON object is needed here; {advice}")
    return found


def _drawn(row: Mapping[str, Any], path: Path, line: int) -> dict[str, float]:
    for name in row:
        if new := renamed_metric(name, row):
            raise UserError(
                f"{path}:{line}: the metric {name!r} is called {new!r} now; convert the file by "
                f"tools/convert_old_names.py {path}"
            )
    # Expert iteration learns from right answers: that those of a prompt earned the same is no loss to it.
    drawn = DRAWN - {"frac_reward_zero_std"} if "right_answers" in row else DRAWN
    try:
        return {name: _value(row, name) for name in drawn if not _is_left_out(name, row.get(name))}
    except FieldError as error:
        raise UserError(f"{path}:{line}: {error}; mend the line, or remove it") from error


def _is_left_out(name: str, value: object) -> bool:
    """Return whether there is nothing to draw: null or NaN, or what a run that diverged has beyond any axis."""
    if isinstance(value, float) and not abs(value) <= LARGEST:
        return math.isnan(value) or name in UNBOUNDED
    return value is None


def _value(row: Mapping[str, Any], name: str) -> float:
    """Return a value that is drawn. Raises FieldError for what is no number, or none that the metric can have."""
    if name in ("step", "denoiser_calls"):
        return float(whole(row, name, 0, MOST_COUNTED))
    if name == "nfe":
        return number(row, name, FEWEST_CALLS, MOST_CALLS)
    if name in SHARES:
        found = number(row, name)
        if not -NEARLY <= found <= 1 + NEARLY:
            raise wrong(name, "a number from 0 to 1", row[name])
        return found
    return number(row, name, -LARGEST if name in UNBOUNDED else 0)


def _whole_lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, counted from 1.

    Every complete line ends in a newline: text after the last one is being written, or was cut off by a crash.
    """
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise UserError(f"{path}:{number}: not JSON, for the line is too long; repair or remove the file")
        if line.endswith(b"\n") and line.strip():
            yield number, line.rstrip(b"\r\n")
