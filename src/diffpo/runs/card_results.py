"""The results in a model card: a table for each task and split that `diffpo eval` has measured. Imports no torch."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from diffpo.core.files import write_whole
from diffpo.core.output import warn
from diffpo.models.manifest import CARD
from diffpo.models.model_paths import first_line

BEGIN, END = "<!-- diffpo:results -->", "<!-- /diffpo:results -->"
"""They enclose what `diffpo eval` writes; a card without them is the user's own, and is left alone."""
MOST_ROWS = 8


def no_results() -> str:
    """Return the section of a model that has not been measured."""
    return f"{BEGIN}\nNot measured yet: `diffpo eval` writes its results here.\n{END}"


def add_results(folder: Path, record: Mapping[str, Any]) -> None:
    """Put the figures of an evaluation into the card of the model in `folder`, in place of older ones of that split.

    A card without a place for them is left as it is. What cannot be read or written is warned of: the record has it.
    """
    file = folder / CARD
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if BEGIN in text and END in text:
            write_whole(file, with_results(text, record))
    except Exception as error:  # noqa: BLE001  what people write there may be no YAML, or not what a card has
        warn(f"diffpo: the results are not in {file} ({first_line(error)}); they are in the record")


def with_results(text: str, record: Mapping[str, Any]) -> str:
    """Return a card with the figures of a record, in its text and in its metadata."""
    name, rows = f"{record['task']}, {record['split']}", rows_of(record)
    before, _, rest = text.partition(BEGIN)
    inside, _, after = rest.partition(END)
    blocks = dict(re.findall(r"<!-- block (.*?) -->\n(.*?)\n<!-- end -->", inside, re.DOTALL))
    blocks[_plain(name)] = _table(record, rows)
    shown = "\n\n".join(f"<!-- block {key} -->\n{block}\n<!-- end -->" for key, block in blocks.items())
    card = ModelCard(f"{before}{BEGIN}\n{shown}\n{END}{after}", ignore_metadata_errors=True)
    data = cast(ModelCardData, card.data)
    task, split = _plain(str(record["task"])), _plain(str(record["split"]))
    others = [found for found in data.eval_results or [] if (found.dataset_name, found.dataset_split) != (task, split)]
    data.model_name = data.model_name or _plain(str(record["arm"]))
    data.eval_results = others + [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{metric}, {row['rule']}",
            metric_value=round(float(row[metric]), 4),
        )
        for row in rows
        for metric in ("accuracy", "nfe")
    ]
    return str(card)


def rows_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the points of a record that tell its frontier: those chosen on validation, the ends, and the samplers'.

    A few points are all shown.
    """
    points: list[Mapping[str, Any]] = sorted(record["points"], key=lambda point: float(point["nfe"]))
    if len(points) > MOST_ROWS:
        chosen = {found["rule"] for found in (record.get("validation") or {}).get("best_constants", [])}
        chosen |= {points[0]["rule"], max(points, key=lambda point: float(point["accuracy"]))["rule"]}
        points = [point for point in points if point["rule"] in chosen]
    curve = record.get("price_curve")
    if curve is not None:
        by_rule = {point["rule"]: point for point in curve["points"]}
        points += [
            {**by_rule[found["rule"]], "rule": f"its sampler, price {found['price']:g}"} for found in curve["prices"]
        ]
    return [*points, *([record["learned"]] if record.get("learned") else [])]


def _table(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    count = rows[0]["n"]
    task, split = _plain(str(record["task"])), _plain(str(record["split"]))
    head = f"**{task}**, {split} split: {count} problems, seed {record['seed']}"
    lines = [
        f"| {_plain(str(row['rule']))} | {_cell(row['accuracy'], row['ci95'])} | {_cell(row['nfe'], row['nfe_ci95'])} |"
        for row in rows
    ]
    return "\n".join([head, "", "| rule | accuracy | denoiser calls (NFE) |", "|---|---|---|", *lines, "", NOTE])


NOTE = "Greedy decoding, in brackets 95 % intervals over problems; measured by `diffpo eval`."


def _cell(value: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _plain(text: str) -> str:
    """Return a name without what Markdown, HTML or a comment could take for its own."""
    return re.sub(r"[^\w .,+()=-]+", "-", text).replace("--", "-")
