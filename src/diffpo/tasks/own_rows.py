"""`task.kind = "text"`: rows of the user's own become problems, by the names of their columns or by templates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffpo.core.conversation import ROLES, Prompt, Turn, conversation_text
from diffpo.core.errors import UserError
from diffpo.tasks.answer_grader import AnswerGrader
from diffpo.tasks.base import Grade, Problem, Split
from diffpo.tasks.datasets import Row, parse_json, shortened, there_are
from diffpo.tasks.row_template import RowTemplate
from diffpo.tasks.splits import split_by_hash
from diffpo.tasks.text import Question, TaskFamily, scalar_columns

NAME = "text"


@dataclass(frozen=True)
class RowParser:
    """Makes a question of a row: its text from a column or a template, its answer likewise, if it has one."""

    prompt: str
    answer: str
    template: str | None
    answer_template: str | None
    grader: AnswerGrader

    def __call__(self, row: Row) -> Question:
        """Raises UserError for columns that are not there, and for answers that the grader cannot use."""
        prompt = self._prompt(row)
        text, turns = (prompt, ()) if isinstance(prompt, str) else (conversation_text(prompt), prompt)
        answer = self._answer(row)
        if fault := self.grader.fault_of(answer):
            raise UserError(f"{row.location}: the answer {answer[-60:]!r} {fault}")
        return Question(text, answer, key=text, cluster=text, facts=scalar_columns(row), turns=turns)

    def _prompt(self, row: Row) -> Prompt:
        if self.template is not None:
            text = RowTemplate(self.template, "task.template").fill(row)
            if not text.strip():
                raise UserError(f"{row.location}: task.template gives an empty prompt; mend the row, or leave it out")
            return text
        if not row.has(self.prompt):
            raise UserError(
                f"{row.location}: task.prompt names column {self.prompt!r}, which is not there; "
                f"{there_are(row, self.prompt)}; name one of them, or write a task.template of several"
            )
        value = row.columns[self.prompt]
        if isinstance(value, str) and value.lstrip().startswith("["):  # CSV has no lists, so there they are in JSON
            parsed = parse_json(value)
            value = parsed if _are_messages(parsed) else value
        return _turns(row, self.prompt, value) if isinstance(value, list) else row.written(self.prompt)

    def _answer(self, row: Row) -> str:
        """Return the answer; "" for a row without one, where the grader does not need it."""
        if self.answer_template is not None:
            return RowTemplate(self.answer_template, "task.answer_template").fill(row)
        if row.has(self.answer) and row.columns[self.answer] not in (None, ""):
            return row.written(self.answer)
        if not self.grader.needs_answer:
            return ""
        problem = (
            "which is empty here: fill it, or delete the row"
            if row.has(self.answer)
            else f"which is not there; {there_are(row, self.answer)}"
        )
        raise UserError(
            f"{row.location}: task.answer names column {self.answer!r}, {problem}; name another, or set "
            "task.grader = 'none' and a task.reward of your own"
        )


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and "role" in one for one in value)


def _turns(row: Row, column: str, messages: list[Any]) -> Prompt:
    """Return a conversation; the user's only turn as its text. Raises UserError for what is none."""
    told = f"{row.location}: field {column!r} should be a text or a list of messages, {{role, content}}"
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise UserError(f"{told}, got {shortened(message)} in it")
        if message["role"] not in ROLES:
            raise UserError(f"{told}, of the roles {', '.join(ROLES)}, got {shortened(message['role'])}")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise UserError(f"{told}, whose content is text, got {shortened(message['content'])}")
    if not messages or messages[-1]["role"] != "user":
        raise UserError(f"{told}, the last one the user's; the answer has a column of its own, task.answer")
    turns = tuple(Turn(message["role"], message["content"]) for message in messages)
    return turns if len(turns) > 1 else turns[0].content


@dataclass(frozen=True)
class DivideByShares:
    """Divides keys by their hash, so that a row stays in its split whatever else is in the data."""

    test_share: float
    validation_share: float

    def __call__(self, keys: Sequence[str]) -> Mapping[str, Split]:
        """Return the split of each key. Shares are rounded to 256ths, one at least where they are above 0."""
        test, validation = (max(round(256 * x), x > 0) for x in (self.test_share, self.validation_share))
        return {key: split_by_hash(ascii(key), test, validation) for key in set(keys)}


def text_family(parser: RowParser, divide: DivideByShares) -> TaskFamily:
    """Return the family of tasks whose rows are the user's own: equal for equal options, so that rows are read once."""
    return TaskFamily(NAME, "", parser, parser.grader, _refuse_d1, divide=divide, has_own_characters=True)


def _refuse_d1(problem: Problem, completion: str) -> Grade:
    raise AssertionError("a recipe cannot name d1's reward for this kind")
