"""Whole steps of DiFFPO by `run_rl`, with a folder of a random model of full size, and how long each part takes."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from diffpo.bench.full_size import FullSize
from diffpo.bench.full_size_speed import Found
from diffpo.bench.shapes import random_model
from diffpo.models.loading import make_denoiser, save_denoiser
from diffpo.models.model_paths import METRICS, checkpoints
from diffpo.rehearsal.byte_tokenizer import FRAMES, byte_tokenizer
from diffpo.rehearsal.gold_answers import WithGoldAnswers
from diffpo.runs.device import DTYPES
from diffpo.tasks.base import Drawn, Grade, Problem, Split, Task, TaskWrapper, grade_all
from diffpo.training.rl import run_rl

STEPS, PROBLEMS = 2, 32
"""The second step is warm. The controller is calibrated on so few problems, since all logits of their first calls are
there at once: those of a run's 256 problems take more than 80 GB."""


@dataclass(frozen=True)
class Timed(TaskWrapper):
    """A task of few problems that notes when it is asked for them and for grades: a rollout is between the two."""

    moments: list[tuple[str, float]] = field(default_factory=list)
    """Names and times (s) of what has ended."""

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        self.note("before")
        return self.task.problems(split, min(count, PROBLEMS), seed)

    def grade(self, problem: Problem, completion: str) -> Grade:
        return self.task.grade(problem, completion)

    def grade_all(
        self, problems: Sequence[Problem], completions: Sequence[str], drawn: Sequence[Drawn] | None = None
    ) -> list[Grade]:
        self.note("rollouts")
        grades = grade_all(self.task, problems, completions, drawn)
        self.note("grading")
        return grades

    def note(self, name: str) -> None:
        self.moments.append((name, time.perf_counter()))


def measure_step(size: FullSize) -> Found:
    """Take two steps of the built-in recipe in a temporary folder; return the seconds and shares of the second."""
    with TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        rows = [{"question": f"What is {n} + {n + 7}?", "answer": f"#### {2 * n + 7}"} for n in range(PROBLEMS)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        start = time.perf_counter()
        write_model(size, folder / "model")
        written = time.perf_counter() - start
        recipe = size.recipe(
            f"base={json.dumps(str(folder / 'model'))}",
            f"task.source={json.dumps(str(folder / 'rows.jsonl'))}",
            f"task.completion_length={size.step_length}",
            f"budget={{steps={STEPS}}}",
        )
        timed: list[Timed] = []

        def adapt(task: Task) -> Task:
            timed.append(Timed(WithGoldAnswers(task)))
            return timed[-1]

        start = time.perf_counter()
        run_rl(recipe, folder / "run", on_step=lambda *_: timed[-1].note("update"), adapt_task=adapt)
        timed[-1].note("checkpoint")
        log = [json.loads(line) for line in (folder / "run" / METRICS).read_text().splitlines()]
        parts = seconds_by_part(timed[-1].moments)
        whole = sum(parts.values())
        return {
            "steps": len(log),
            "completions": recipe.rollout.prompts_per_step * recipe.rollout.group_size,
            "write_model_seconds": written,
            "run_seconds": time.perf_counter() - start,
            "step_seconds": [step["seconds"] for step in log],
            "last_step_seconds": parts,
            "last_step_shares": {name: seconds / whole for name, seconds in parts.items()},
            "rollout_tokens": log[-1]["rollout_tokens"],
            "update_tokens": log[-1]["update_tokens"],
            "is_checkpoint_written": bool(checkpoints(folder / "run")),
        }


def seconds_by_part(moments: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return the seconds of each part of the last step: from the last time that problems were asked for."""
    last = max(index for index, (name, _) in enumerate(moments) if name == "before")
    return {name: end - start for (_, start), (name, end) in pairwise(moments[last:])}


def write_model(size: FullSize, folder: Path) -> None:
    """Write a random model with a tokenizer of bytes that has as many tokens as its embedding has rows."""
    tokenizer = byte_tokenizer("LLaDA", size.config.vocab_size)
    config = size.config
    config.mask_token_id = tokenizer.convert_tokens_to_ids(FRAMES["LLaDA"].mask)
    model = random_model(config, DTYPES[size.dtype], size.device)
    save_denoiser(make_denoiser(model, tokenizer), tokenizer, folder)
