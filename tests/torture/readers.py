"""Fuzz every reader of files that others write: what is wrong with a file is one UserError, and nothing else escapes.

Each starts from a file that is right, which is then spoilt at random; pieces that readers trip over are put into it.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffpo.core.errors import UserError
from diffpo.evaluation.recorded import differences, score_file, summary
from diffpo.models.loading import read_config
from diffpo.models.manifest import MANIFEST, problems_of, whole_folder, write_manifest
from diffpo.models.model_paths import read_json, weight_files
from diffpo.recipes import dump_recipe, load_recipe
from diffpo.recipes.tables import EvalRecipe, RlRecipe, SftRecipe
from diffpo.report.page import render
from diffpo.report.sources import read_run
from diffpo.runs.metrics_log import cut_metrics
from diffpo.runs.progress import ProgressBar
from diffpo.runs.resume import problems_on_resume, read_progress
from diffpo.sampling.controller import Controller
from diffpo.sampling.controller_files import load_controller, save_controller
from diffpo.sampling.sampler_files import SAMPLER_CONFIG, SAMPLER_WEIGHTS, load_sampler
from diffpo.study.results import read_results
from diffpo.tasks.datasets import read_rows
from diffpo.tasks.families import TASK_FAMILIES
from tests.helpers.tiny_runs import rl_recipe, sft_recipe
from tests.torture.mutations import mutated, mutated_bytes

LONGEST_MESSAGE = 20_000

PIECES = (
    "0", "-1", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "null", "true", "[]", "{}", '""', "9" * 400,
    "9" * 5000, "1e-400",
    "[" * 5000, '{"a":' * 2000, "a." * 3000 + "b = 1\n", "inf", "nan", "0x_", "1979-05-27T07:32:00Z", "'''",
    '"""', "\\ud800",
    "\\u0000", "\0", "\x1b[2J", "\n", "\r", ",", ":", '"', "=", "\ufeff", "\u2028", "[[task]]\n", "[with.gsm8k]\n",
    "kind = 'x'\n",
    '"a": 1, "a": 2,', "../../../etc/passwd", "/dev/zero", "\\", '"x' * 50, "a" * 5000, "task.reward = {}\n",
    "0" * 400 + "1",
)  # fmt: skip
PIECES_AS_BYTES = (
    *(piece.encode() for piece in PIECES),
    b"\xff\xfe",
    b"\x80",
    b"\xed\xa0\x80",
    b"\0" * 64,
    b"\xff" * 8,
)

Reader = Callable[[Path], object]


@dataclass(frozen=True)
class Source:
    """A reader, and the files that are right for it: names and contents in a folder. `spoilt` are those to spoil."""

    name: str
    read: Reader
    """Reads what is in a folder."""
    files: dict[str, bytes]
    spoilt: tuple[str, ...]


@dataclass
class Readers:
    """What came of spoiling files."""

    read: int = 0
    refused: int = 0
    """Of those, the ones that a UserError refused; the others were still readable."""
    faults: list[str] = field(default_factory=list)
    """Everything else that escaped, and messages that are no sentence."""


def sources(folder: Path) -> list[Source]:
    """Return every reader with files that it takes. `folder` is for making them."""
    return [*_of_recipes(), *_of_data(), *_of_models(folder), *_of_runs()]


def try_reader(source: Source, folder: Path, draw: random.Random, tally: Readers) -> None:
    """Spoil one of a reader's files, and let it read."""
    for name, content in source.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    name = draw.choice(source.spoilt)
    spoilt = spoil(source.files[name], draw)
    (folder / name).write_bytes(spoilt)
    tally.read += 1
    try:
        source.read(folder)
    except UserError as error:
        tally.refused += 1
        if not str(error).strip() or "Traceback" in str(error) or len(str(error)) > LONGEST_MESSAGE:
            tally.faults.append(f"{source.name}, {name}: no sentence: {str(error)[:200]!a}")
    except BaseException as error:  # noqa: BLE001  that nothing else comes out is what is to be seen
        tally.faults.append(f"{source.name}, {name}: {type(error).__name__}: {error!s:.120} on {spoilt[:300]!a}")


def spoil(content: bytes, draw: random.Random) -> bytes:
    """Return a file's content with a few changes: as text where it is one, so that it stays readable more often."""
    if draw.random() < 0.5:
        try:
            return mutated(content.decode(), PIECES, draw).encode(errors="replace")
        except UnicodeDecodeError:
            pass
    elif draw.random() < 0.4 and (changed := _with_other_value(content, draw)) is not None:
        return changed
    return mutated_bytes(content, PIECES_AS_BYTES, draw)


def _with_other_value(content: bytes, draw: random.Random) -> bytes | None:
    """Return JSON with one of its values replaced by one of another kind; None for what is no JSON."""
    lines = content.split(b"\n") if content.count(b"\n{") else [content]
    index = draw.randrange(len(lines))
    try:
        value = json.loads(lines[index])
    except ValueError:
        return None
    others: Sequence[Any] = (
        None,
        True,
        -1,
        0,
        1.5,
        10**400,
        float("inf"),
        float("nan"),
        "",
        "x",
        [],
        {},
        [[]],
        [None],
        "1e5",
        2**63,
    )
    path: list[Any] = []
    place = value
    while isinstance(place, dict | list) and place and (not path or draw.random() < 0.8):
        key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        path.append((place, key))
        place = place[key]
    if not path:
        return None
    parent, key = path[-1]
    if isinstance(parent, dict) and draw.random() < 0.3:
        del parent[key]
    else:
        parent[key] = draw.choice(others)
    lines[index] = json.dumps(value).encode()
    return b"\n".join(lines)


def torture_by_files(folder: Path, count: int, seed: int) -> Readers:
    """Let each reader in turn read a spoilt file, so many in all."""
    draw, tally = random.Random(seed), Readers()
    (folder / "made").mkdir(parents=True)
    found = sources(folder / "made")
    with ProgressBar("readers", count, unit="file") as bar:
        for number in range(count):
            source = found[number % len(found)]
            try_reader(source, folder / source.name.replace(" ", "-"), draw, tally)
            bar.update(number + 1, refused=tally.refused, faults=len(tally.faults))
    return tally


# ----------------------------------------------------------------------------------------------------- recipes and data


def _of_recipes() -> list[Source]:
    rl = dump_recipe(rl_recipe(Path("base"), "budget.steps=1")).encode()
    sft = dump_recipe(sft_recipe()).encode()
    overrides = "\n".join(
        ("task.min_clues=13", "optimizer.lr=0.01", "rollout.group_size=4", "train=joint", "optimizer={lr=0.1}")
    )

    def read_overrides(folder: Path) -> object:
        text = (folder / "overrides").read_bytes().decode(errors="surrogateescape")
        return load_recipe(RlRecipe, None, ["base=x", "budget.steps=1", *text.split("\n")])

    return [
        Source("rl recipe", lambda at: load_recipe(RlRecipe, str(at / "r.toml")), {"r.toml": rl}, ("r.toml",)),
        Source("sft recipe", lambda at: load_recipe(SftRecipe, str(at / "r.toml")), {"r.toml": sft}, ("r.toml",)),
        Source(
            "eval recipe",
            lambda at: load_recipe(EvalRecipe, str(at / "r.toml")),
            {"r.toml": b'model = "m"\ncount = 5\nbounds = [0.1, 0.2]\n[task]\nkind = "gsm8k"\nsource = "a.jsonl"\n'},
            ("r.toml",),
        ),
        Source("overrides", read_overrides, {"overrides": overrides.encode()}, ("overrides",)),
    ]


ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {"question": "How many?", "answer": "48 / 2 = <<48/2=24>>24\n#### 72"},
        {"question": "And?", "answer": "1,200"},
    ],
    "math500": [
        {"problem": "Solve.", "answer": "\\frac{3}{4}", "level": 3},
        {"problem": "x?", "solution": "so \\boxed{7}"},
    ],
    "countdown-d1": [{"nums": [86, 57, 91], "target": 52}, {"input": "30,100,93", "output": "23"}],
    "sudoku-d1": [{"Puzzle": "1034341201434301", "Solution": "1234341221434321"}],
}
RECORDED: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": "How many?", "generation": "<answer>\\boxed{72}</answer>", "ground_truth": 72.0}],
    "math500": [{"question": "Solve.", "generation": "\\boxed{3/4}", "ground_truth": "7"}],
    "countdown-d1": [{"question": "?", "generation": "<answer>86+57-91</answer>", "ground_truth": [[86, 57, 91], 52]}],
    "sudoku-d1": [
        {"question": "1034341201434301", "generation": "<answer>1</answer>", "ground_truth": "1234341221434321"}
    ],
}


def _of_data() -> list[Source]:
    found = []
    for name, rows in ROWS.items():
        jsonl = "".join(json.dumps(row) + "\n" for row in rows).encode()
        found.append(Source(f"{name} jsonl", _rows_reader(name, "d.jsonl"), {"d.jsonl": jsonl}, ("d.jsonl",)))
    csv = b'question,answer\n"How many, then?","so\n#### 72"\nAnd?,7\n'
    found.append(Source("csv", _rows_reader("gsm8k", "d.csv"), {"d.csv": csv}, ("d.csv",)))
    array = json.dumps(ROWS["gsm8k"], indent=1).encode()
    found.append(Source("json array", _rows_reader("gsm8k", "d.jsonl"), {"d.jsonl": array}, ("d.jsonl",)))
    if parquet := _parquet():
        found.append(Source("parquet", _rows_reader("gsm8k", "d.parquet"), {"d.parquet": parquet}, ("d.parquet",)))
    for kind, rows in RECORDED.items():
        jsonl = "".join(json.dumps(row) + "\n" for row in rows).encode()
        found.append(Source(f"score {kind}", _score_reader(kind, "g.jsonl"), {"g.jsonl": jsonl}, ("g.jsonl",)))
    whole = json.dumps({"generations": RECORDED["gsm8k"]}).encode()
    found.append(Source("score json", _score_reader("gsm8k", "g.json"), {"g.json": whole}, ("g.json",)))
    return found


def _rows_reader(family: str, file: str) -> Reader:
    def read(folder: Path) -> object:
        return [TASK_FAMILIES[family].parse_row(row) for row in read_rows(str(folder / file), "train")]

    return read


def _score_reader(kind: str, file: str) -> Reader:
    def read(folder: Path) -> object:
        rows = score_file(folder / file, kind)
        return summary(rows) + differences(rows)

    return read


def _parquet() -> bytes | None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return None
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS["gsm8k"]), sink)
    return bytes(sink.getvalue().to_pybytes())


# ------------------------------------------------------------------------------------------------------ models and runs

MODEL_CONFIG = {
    "model_type": "llada", "architectures": ["LLaDAModelLM"], "d_model": 32, "n_layers": 2, "n_heads": 2,
    "n_kv_heads": 2,
    "mlp_hidden_size": 48, "vocab_size": 64, "embedding_size": 64, "max_sequence_length": 64, "mask_token_id": 3,
    "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "weight_tying": False, "eos_token_id": 1, "pad_token_id": 0,
    "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True, "include_bias": False,
}  # fmt: skip


def _of_models(folder: Path) -> list[Source]:
    save_controller(Controller(initial_bound=0.1, hidden=4), folder)
    controller = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    sampler = {
        SAMPLER_CONFIG: json.dumps(
            {"kind": "commit-risk", "hidden_size": 8, "width": 4, "completion_length": 16, "block_length": None,
             "candidates": [{"name": "entropy bound 0.1", "bound": 0.1, "accuracy": 0.5, "nfe": 3.0}]}
        ).encode()
    }  # fmt: skip
    save_file({"x": torch.zeros(2)}, folder / SAMPLER_WEIGHTS)
    sampler[SAMPLER_WEIGHTS] = (folder / SAMPLER_WEIGHTS).read_bytes()
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": {"a.weight": "model-1.safetensors"}}).encode()
    whole = folder / "whole"
    whole.mkdir()
    progress = json.dumps({"step": 3, "denoiser_calls": 5, "is_finished": False, "has_manifest": True}).encode()
    (whole / "progress.json").write_bytes(progress)
    (whole / "config.json").write_bytes(json.dumps(MODEL_CONFIG).encode())
    write_manifest(whole)
    checkpoint = {f"checkpoint-3/{file.name}": file.read_bytes() for file in whole.iterdir()}
    manifest, told = f"checkpoint-3/{MANIFEST}", "checkpoint-3/progress.json"
    lone = {told: progress, "checkpoint-3/x": b"x"}
    return [
        Source("config", read_config, {"config.json": json.dumps(MODEL_CONFIG).encode()}, ("config.json",)),
        Source("json", lambda at: read_json(at / "a.json"), {"a.json": b'{"a": [1, 2]}'}, ("a.json",)),
        Source(
            "weight index",
            weight_files,
            {"model.safetensors.index.json": index, "model-1.safetensors": b""},
            ("model.safetensors.index.json",),
        ),
        Source("controller", lambda at: load_controller(at, 8), controller, tuple(controller)),
        Source("sampler", lambda at: load_sampler(at, 8, torch.device("cpu")), sampler, tuple(sampler)),
        Source("manifest", lambda at: problems_of(at / "checkpoint-3"), checkpoint, (manifest,)),
        Source("whole folder", whole_folder, checkpoint, tuple(checkpoint)),
        Source("resume", lambda at: problems_on_resume(at / "checkpoint-3"), lone, (told,)),
        Source("progress", lambda at: read_progress(at / "checkpoint-3"), lone, (told,)),
    ]


def _of_runs() -> list[Source]:
    log = "".join(
        json.dumps({"step": step, "loss": 0.5 / step, "accuracy": 0.1, "nfe": 4.0, "denoiser_calls": 9 * step}) + "\n"
        for step in (1, 2, 3)
    ).encode()
    point = {"rule": "entropy bound 0.1", "accuracy": 0.5, "ci95": [0.4, 0.6], "nfe": 3.0, "n": 4, "bound": 0.1,
             "solved": [1, 0, 1, 0], "nfe_rows": [3, 3, 3, 3]}  # fmt: skip
    gain = {"accuracy": 0.02, "accuracy_ci95": [0.0, 0.1], "nfe": 0.5, "nfe_ci95": [0.1, 0.9]}
    estimate = {"value": 0.4, "ci95": [0.3, 0.5]}
    answered = {"prompt": "1034341201434301=", "completion": "1234341221434321", "answer": "1234341221434321",
                "clues": 11, "unmask_step": [0, 1] * 8, "logp": [-0.1] * 16, "nfe": 2, "solved": True,
                "entropy_bound": 0.1}  # fmt: skip
    record = {
        "task": "sudoku4", "split": "test", "seed": 0, "completion_length": 16, "clues": [8, 9, 10, 11],
        "points": [point, point | {"rule": "top-2", "nfe": 8.0, "bound": None}],
        "learned": point | {"rule": "learned", "bounds": [0.1] * 4}, "area": estimate, "aup": estimate, "gain": gain,
        "validated_gain": gain | {"rule": "top-2"},
        "validation": {"best_constants": [{"price": 0.1, "rule": "top-2", "bound": None}]},
        "price_curve": {"points": [point], "prices": [{"price": 0.1, "rule": point["rule"]}], "area": estimate,
                        "area_gain": estimate},
        "playback": [answered],
    }  # fmt: skip
    summed = {"seed": 0, "wall_s": 61.5, "arms": {"base": {"frontier": [point], "train_denoiser_calls": 100}}}
    run = {
        "metrics.jsonl": log,
        "eval.json": json.dumps(record).encode(),
        "summary.json": json.dumps(summed).encode(),
    }
    study = json.dumps({"kind": "arms", "study": "s", "task": "t", "arm": "a", "seed": 0, "settings": {},
                        "completion_length": 16, "clusters": ["x"], "points": [point], "training": {}})  # fmt: skip
    return [
        Source("metrics", lambda at: cut_metrics(at / "metrics.jsonl", 2), {"metrics.jsonl": log}, ("metrics.jsonl",)),
        Source("report", lambda at: render(read_run(at)), run, tuple(run)),
        Source(
            "study results",
            lambda at: read_results(at / "runs.jsonl"),
            {"runs.jsonl": study.encode() + b"\n"},
            ("runs.jsonl",),
        ),
    ]
