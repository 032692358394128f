"""Read the data of a task and measure its prompts and answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.core.hub_name import parse_hub_name
from diffpo.models.chat import encode_prompt, turn_end_ids
from diffpo.models.tokenizer import encode_text
from diffpo.rehearsal.byte_tokenizer import BYTES_PER_TOKEN
from diffpo.rehearsal.findings import Findings
from diffpo.tasks.base import Problem, Split, Task
from diffpo.tasks.datasets import DataAwayError

LOOKED_AT = 256
"""Problems of a split that are measured, at most."""
MANY = 0.1
"""The share of prompts that are too long from which on it is a fault."""


def read_problems(task: Task, split: Split) -> list[Problem]:
    """Return the first problems of a split, each once.

    Raises UserError, which says what to bring where the data are away.
    """
    try:
        found = task.problems(split, LOOKED_AT, seed=0)
    except DataAwayError as error:
        raise UserError(_explain_away(error)) from error
    return list({problem.id: problem for problem in found}.values())


def _explain_away(error: DataAwayError) -> str:
    """Return what to bring in place of a data set that cannot be downloaded here."""
    name = parse_hub_name(error.source)
    assert name is not None, "only a data set of the hub is downloaded"
    folder = name.repository.rpartition("/")[2]
    return (
        f"the data set {error.source} is not here and cannot be downloaded ({error.reason}): where the hub is in "
        f"reach, run `hf download {name.repository} --repo-type dataset --local-dir {folder}`, bring the folder here, "
        "and rehearse with task.source=FILE, its file of train rows (or any JSONL, CSV or Parquet file of such rows)"
    )


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and answers, as the model's tokenizer counts them; with a stand-in of bytes, about."""

    prompts: list[int]
    answers: list[int]
    """With the end of their turn; only of problems whose answers are known."""
    is_byte_level: bool

    @property
    def about(self) -> str:
        """The word that goes before a length."""
        return "about " if self.is_byte_level else ""

    @property
    def mean_prompt(self) -> int:
        """The mean length of the prompts."""
        return max(1, round(sum(self.prompts) / len(self.prompts)))

    @property
    def longest_prompt(self) -> int:
        """The length of the longest prompt."""
        return max(self.prompts)


def measure(tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], is_byte_level: bool) -> Lengths:
    """Return the lengths of problems in the chat template; a stand-in's bytes are counted as a quarter of a token."""
    size = BYTES_PER_TOKEN if is_byte_level else 1
    end = turn_end_ids(tokenizer)
    prompts = [len(encode_prompt(tokenizer, problem.conversation)) for problem in problems]
    answers = [len(encode_text(tokenizer, problem.answer) + end) for problem in problems if problem.answer]
    return Lengths([-(-n // size) for n in prompts], [-(-n // size) for n in answers], is_byte_level)


def check_prompts(lengths: Lengths, limit: int | None, findings: Findings) -> bool:
    """Add how many prompts would be left out, and return whether any is left.

    A few are a note, and a tenth of them a fault.
    """
    if limit is None:
        return True
    too_long = sum(length > limit for length in lengths.prompts)
    if not too_long:
        return True
    text = (
        f"{too_long} of the {len(lengths.prompts)} prompts looked at are longer than {limit} tokens and would be left "
        f"out; the longest has {lengths.about}{lengths.longest_prompt}"
    )
    if too_long >= MANY * len(lengths.prompts):
        findings.fault(
            f"{text}; raise task.max_prompt_tokens (in SFT, sequence_length), or lower task.completion_length where "
            "the model has no more positions"
        )
    else:
        findings.note(text)
    return too_long < len(lengths.prompts)


def check_answers(lengths: Lengths, space: int, option: str, is_learned: bool, findings: Findings) -> None:
    """Add how many gold answers have no room in a completion of `space` tokens, which `option` sets.

    It is a fault where answers are learned (SFT) and half of them would lose their end, or where no answer fits.
    """
    cut = sum(length > space for length in lengths.answers)
    if not cut:
        return
    text = (
        f"{cut} of the {len(lengths.answers)} gold answers looked at have more tokens than the {space} that {option} "
        f"leaves them, the longest {lengths.about}{max(lengths.answers)}"
    )
    if cut == len(lengths.answers) or (is_learned and 2 * cut >= len(lengths.answers)):
        why = "targets without an end teach a model never to end" if is_learned else "no answer can be given"
        findings.fault(f"{text}: {why}; raise {option}")
    else:
        findings.note(text)
