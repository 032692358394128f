"""`--rehearse`: look at data, template and rewards, run the shrunk recipe, and say in words what is wrong."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.core.files import explain_write_errors
from diffpo.models.loading import load_denoiser
from diffpo.models.tokenizer import char_tokenizer, is_char_tokenizer
from diffpo.recipes.dump import diff_recipes
from diffpo.recipes.tables import RlRecipe, SftRecipe, SourceSettings, base_bits, is_graded
from diffpo.recipes.tasks import build_task
from diffpo.rehearsal.byte_tokenizer import BYTES_PER_TOKEN
from diffpo.rehearsal.cost import check_cost, check_devices
from diffpo.rehearsal.data_check import Lengths, check_answers, check_prompts, measure, read_problems
from diffpo.rehearsal.findings import Findings
from diffpo.rehearsal.reward_check import check_rewards, check_test_answers
from diffpo.rehearsal.shrink import shrunk_rl, shrunk_sft
from diffpo.rehearsal.stand_in import StandIn, write_stand_in
from diffpo.rehearsal.steps import rehearse_evaluation, rehearse_rl_steps, rehearse_sft_steps
from diffpo.rehearsal.template_check import check_template
from diffpo.runs.run_dir import require_no_run
from diffpo.tasks.base import Problem, Task, characters_of

ASSUMED_PROMPT = 200
"""Tokens of a prompt where the data cannot be read."""


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal did, and what it found."""

    findings: Findings
    sections: tuple[tuple[str, str], ...]
    """Titles and texts."""

    def report(self) -> str:
        """Return all of it as text, which ends in what is wrong."""
        told = [f"# {title}\n{text.rstrip()}\n" for title, text in self.sections if text]
        notes = "\n".join(f"- {note}" for note in self.findings.notes)
        return "\n".join([*told, *([f"# notes\n{notes}\n"] if notes else []), self.findings.verdict()])


def rehearse(
    recipe: RlRecipe | SftRecipe, out: Path | None = None, devices: int = 1, device_memory: float | None = None
) -> Rehearsal:
    """Rehearse a recipe in a folder, or in a temporary one that is removed.

    `devices` and `device_memory` (GiB) describe the machine that the run is meant for. What is wrong with the recipe's
    data, code, model or numbers is a finding. Raises UserError for a folder that holds a run.
    """
    if out is not None:
        require_no_run(out, "choose another --out")
        with explain_write_errors(out, is_folder=True):
            out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UserError(f"{out} is not empty; choose another --out")
    with TemporaryDirectory(prefix="rehearsal-") if out is None else nullcontext(str(out)) as folder:
        return _Stage(recipe, Path(folder), Findings()).run(devices, device_memory)


@dataclass(frozen=True)
class _Stage:
    recipe: RlRecipe | SftRecipe
    folder: Path
    findings: Findings

    def run(self, devices: int, device_memory: float | None) -> Rehearsal:
        """Do all that can be done, in an order in which a fault prevents only what depends on it."""
        started, findings, recipe = time.perf_counter(), self.findings, self.recipe
        is_divided = check_devices(recipe, devices, findings)
        stand_in = self._stand_in()
        task, problems = self._problems()
        tokenizer, stop_ids = self._tokenizer(stand_in, task)
        is_encodable = tokenizer is not None and check_template(tokenizer, stop_ids, findings)
        earned = self._rewards(task, problems)
        self._check_test_answers(task)
        lengths = self._lengths(tokenizer, problems, stand_in) if tokenizer is not None and is_encodable else None
        limit = self._prompt_limit(stand_in, tokenizer)
        run = ""
        if lengths is not None and self._check_lengths(lengths, limit):
            run = self._steps(stand_in, lengths, limit)
        seconds = f"{time.perf_counter() - started:.1f} s"
        mean, longest = (lengths.mean_prompt, lengths.longest_prompt) if lengths else (ASSUMED_PROMPT, ASSUMED_PROMPT)
        longest = longest if limit is None else min(longest, limit)
        cost = check_cost(recipe, mean, longest, devices if is_divided else 1, device_memory, findings)
        sections = (
            ("stand-in", stand_in.told if stand_in else ""),
            ("rehearsed", f"{run}{seconds} in all" if run else f"no step could be run; {seconds} in all"),
            ("mean rewards", earned),
            ("prompts and answers", _told(lengths) if lengths else ""),
        )
        return Rehearsal(findings, (*sections, ("the run itself, by the dry run's figures", cost.replace("# ", ""))))

    def _stand_in(self) -> StandIn | None:
        if self.recipe.base is None:
            return None
        try:
            return write_stand_in(self.recipe.base, self.folder / "stand-in", self._is_quantised)
        except UserError as error:
            self.findings.fault(str(error))
            return None

    @property
    def _is_quantised(self) -> bool:
        return base_bits(self.recipe) is not None and find_spec("bitsandbytes") is not None

    @property
    def _is_graded(self) -> bool:
        return is_graded(self.recipe.task)

    def _problems(self) -> tuple[Task | None, list[Problem]]:
        """Return the task and train problems."""
        try:
            task = build_task(self.recipe.task)
            return task, read_problems(task, "train")
        except UserError as error:
            self.findings.fault(str(error))
            return None, []

    def _check_test_answers(self, task: Task | None) -> None:
        if task is None or not self._is_graded or isinstance(self.recipe, SftRecipe):
            return
        try:
            check_test_answers(task, read_problems(task, "test"), self.findings)
        except UserError as error:
            self.findings.fault(f"the test problems cannot be read: {error}")

    def _tokenizer(
        self, stand_in: StandIn | None, task: Task | None
    ) -> tuple[PreTrainedTokenizerFast | None, Sequence[int]]:
        if stand_in is None:
            return (
                (char_tokenizer(characters_of(task)), ())
                if task is not None and self.recipe.base is None
                else (None, ())
            )
        try:
            denoiser, tokenizer = load_denoiser(stand_in.folder)
        except UserError as error:
            self.findings.fault(str(error).replace(str(stand_in.folder), str(self.recipe.base)))
            return None, ()
        return tokenizer, denoiser.stop_ids

    def _rewards(self, task: Task | None, problems: Sequence[Problem]) -> str:
        if task is None or not self._is_graded:
            return ""
        try:
            return check_rewards(task, problems, self.findings)
        except UserError as error:  # of a task of the user's own, whose grades are none
            self.findings.fault(str(error))
            return ""

    def _lengths(
        self, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], stand_in: StandIn | None
    ) -> Lengths | None:
        if not problems:
            return None
        try:
            return measure(tokenizer, problems, stand_in is not None and stand_in.is_byte_level)
        except UserError as error:
            self.findings.fault(str(error))
            return None

    def _prompt_limit(self, stand_in: StandIn | None, tokenizer: PreTrainedTokenizerFast | None) -> int | None:
        """Return the tokens of the longest prompt that the run itself would take; None where there is no limit."""
        task = self.recipe.task
        if isinstance(self.recipe, SftRecipe) and self.recipe.sequence_length is not None:
            return self.recipe.sequence_length - 1
        if not isinstance(task, SourceSettings):
            return None
        if task.max_prompt_tokens is not None or stand_in is None or tokenizer is None or is_char_tokenizer(tokenizer):
            return task.max_prompt_tokens
        return stand_in.positions - task.completion_length

    def _check_lengths(self, lengths: Lengths, limit: int | None) -> bool:
        """Add what is too long; return whether any prompt is left."""
        recipe, task = self.recipe, self.recipe.task
        is_any_left = check_prompts(lengths, limit, self.findings)
        if isinstance(recipe, SftRecipe) and recipe.sequence_length is not None:
            space = max(1, recipe.sequence_length - lengths.mean_prompt)
            check_answers(lengths, space, "sequence_length", True, self.findings)
        elif isinstance(task, SourceSettings):
            is_learned = isinstance(recipe, SftRecipe)
            check_answers(lengths, task.completion_length, "task.completion_length", is_learned, self.findings)
        return is_any_left

    def _steps(self, stand_in: StandIn | None, lengths: Lengths, limit: int | None) -> str:
        """Run the shrunk recipe; return what was run, in words."""
        is_byte_level = stand_in is not None and stand_in.is_byte_level
        limit = None if is_byte_level else limit  # which counts tokens, and bytes are no tokens
        base = stand_in.folder if stand_in else None
        has_cuda, has_bitsandbytes = torch.cuda.is_available(), self._is_quantised
        run, record = self.folder / "run", self.folder / "evaluation.json"
        small: RlRecipe | SftRecipe
        if isinstance(self.recipe, RlRecipe):
            assert base is not None
            small = shrunk_rl(
                self.recipe, base, has_cuda=has_cuda, has_bitsandbytes=has_bitsandbytes, prompt_limit=limit
            )
            is_done = rehearse_rl_steps(small, run, self.findings)
            rows = small.rollout.prompts_per_step * small.rollout.group_size
            what = f"{small.budget.steps} steps of {rows} completions, half of them graded as if they were gold answers"
        else:
            size = BYTES_PER_TOKEN if is_byte_level else 1
            length = size * max(lengths.answers, default=0) + 1
            own = self.recipe.task.completion_length
            small = shrunk_sft(
                self.recipe,
                base,
                has_cuda=has_cuda,
                has_bitsandbytes=has_bitsandbytes,
                prompt_limit=limit,
                longest_prompt=size * lengths.longest_prompt,
                completion_length=max(length, size * own) if is_byte_level else own,
            )
            is_done = rehearse_sft_steps(small, run, self.findings)
            what = f"{small.steps} steps of {small.batch} rows"
        if is_done:
            rehearse_evaluation(small, run, record, self.findings)
        changes = [line for line in diff_recipes(self.recipe, small) if not line.startswith("base: ")]
        shrunk = "\n".join(f"  {line}" for line in changes)
        again = ", the last of them again from a checkpoint, and an evaluation of 4 problems" if is_done else ""
        return f"{what}{again}\nshrunk:\n{shrunk}\n"


def _told(lengths: Lengths) -> str:
    about = lengths.about
    told = (
        f"{len(lengths.prompts)} prompts of {about}{lengths.mean_prompt} tokens, the longest {lengths.longest_prompt}"
    )
    if lengths.answers:
        told += f"; gold answers of at most {about}{max(lengths.answers)}"
    return f"{told} (bytes of the stand-in's, counted as a quarter of a token)" if lengths.is_byte_level else told
