"""Convert stored files from the names that recipe keys and metrics had at first to today's, in place.

    python tools/convert_old_names.py results runs/mine

Folders are searched for `runs.jsonl` (results of studies), `metrics.jsonl` and `recipe.toml` (of runs). What a file has
under today's names stays as it is, byte by byte, so that a second time changes nothing. Keys that have gone go.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diffpo.core.files import write_whole
from diffpo.core.user_code import is_user_code
from diffpo.recipes.dump import toml_of
from diffpo.recipes.renamed import KEYS, REMOVED, renamed_metric, renamed_value

Found = set[str]
"""What was converted: `old -> new`."""


def new_table(table: Any, found: Found, where: str = "") -> Any:
    """Return a recipe's table with today's keys and values; `where` is its dotted name with a dot behind it."""
    if not isinstance(table, dict) or is_user_code(str(table.get("kind"))):
        return table  # the options of a class of one's own have names of their own
    result = {}
    for old, value in table.items():
        key = KEYS.get(old, old)
        if where + key in REMOVED:
            found.add(f"{where}{key} left out")
            continue
        if key != old:
            found.add(f"{old} -> {key}")
        if (new := renamed_value(key, value)) is not None:
            found.add(f"{key} = {value} -> {new}")
        result[key] = new_table(value, found, f"{where}{key}.") if new is None else new
    return result


def new_metrics(metrics: dict[str, Any], found: Found) -> dict[str, Any]:
    """Return the metrics of one step under today's names."""
    names = {name: renamed_metric(name, metrics) or name for name in metrics}
    found |= {f"{old} -> {new}" for old, new in names.items() if old != new}
    return {names[name]: value for name, value in metrics.items()}


def new_result(line: dict[str, Any], found: Found) -> dict[str, Any]:
    """Return a result line of a study, its settings and its training metrics converted."""
    settings = {name: new_table(table, found) for name, table in line["settings"].items()}
    line = line | {"settings": settings}
    if "training" in line:
        line["training"] = [new_metrics(step, found) for step in line["training"]]
    return line


def new_text(name: str, text: str, found: Found) -> str:
    """Return the content of a file of this name; what needs no conversion stays as it is written."""
    if name == "recipe.toml":
        table = new_table(tomllib.loads(text), found)
        return toml_of(table) if found else text
    convert = new_metrics if name == "metrics.jsonl" else new_result
    *lines, rest = text.split("\n")  # what follows the last line's end is being written, or was cut off by a crash
    for number, line in enumerate(lines):
        in_line: Found = set()
        try:
            record = convert(json.loads(line), in_line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number + 1} is no JSON: {error.msg}") from error
        if in_line:
            lines[number] = json.dumps(record)
            found |= in_line
    return "\n".join([*lines, rest])


NAMES = ("metrics.jsonl", "recipe.toml", "runs.jsonl")


def files_in(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files to convert among and below `paths`."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for name in NAMES for file in path.rglob(name))
        elif path.name in NAMES:
            yield path
        else:
            raise ValueError(f"{path} is neither a folder nor one of {', '.join(NAMES)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert, and print what changed; 2 where a file cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    path = Path()
    try:
        for path in files_in(parser.parse_args(arguments).paths):
            found: Found = set()
            text = path.read_bytes().decode()
            new = new_text(path.name, text, found)
            if found:
                write_whole(path, new)
                print(f"{path}: {', '.join(sorted(found))}")
            else:
                print(f"{path}: nothing to convert")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{path}: {error}" if str(path) not in str(error) else error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
