"""Leave out, and count, the prompts that are too long for a model; no prompt is cut."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from diffpo.core.conversation import Prompt
from diffpo.core.errors import UserError
from diffpo.models.chat import encode_prompt, turn_end_ids
from diffpo.models.positions import most_tokens
from diffpo.models.tokenizer import encode_text, is_char_tokenizer
from diffpo.recipes.tables import CustomTask, SourceSettings, TaskRecipe
from diffpo.tasks.base import Drawn, Grade, Problem, Split, Task, TaskWrapper, characters_of, grade_all

ROWS_TOO_LONG = (
    "{rows_too_long:g} rows were left out: a prompt is longer than the model or task.max_prompt_tokens allows, or an "
    "answer than task.completion_length"
)
LOOKED_AT = 64
"""Problems that are encoded before a run's folder is made."""
ENOUGH = 2**14
"""Problems to look through for one that fits before giving up: train problems repeat for ever."""
PROMPTS_TOO_LONG = (
    "{prompts_too_long:g} prompts were longer than the model or task.max_prompt_tokens allows and were left out"
)


@dataclass(frozen=True)
class PromptFilter(TaskWrapper):
    """A task without the prompts of more than `limit` tokens, chat template included; the others keep their order.

    With `longest_answer` problems whose answers, their turn's end included, have more tokens are left out as well.

    Problems and grades are those of `task` itself, so that nothing changes where no prompt is too long. For a smaller
    count `task.problems` must return the beginning of the same list, as text tasks do.
    """

    tokenizer: PreTrainedTokenizerFast
    limit: int
    longest_answer: int | None = None

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        return self.draw(split, count, seed)[0]

    def grade(self, problem: Problem, completion: str) -> Grade:
        return self.task.grade(problem, completion)

    def grade_all(
        self, problems: Sequence[Problem], completions: Sequence[str], drawn: Sequence[Drawn] | None = None
    ) -> list[Grade]:
        return grade_all(self.task, problems, completions, drawn)

    def _room_for_answers(self) -> Callable[[str], bool]:
        """Return whether an answer fits, for many: each is encoded once, and the template is rendered once."""
        if self.longest_answer is None:
            return lambda answer: True
        room = self.longest_answer - len(turn_end_ids(self.tokenizer))
        return cache(lambda answer: len(encode_text(self.tokenizer, answer)) <= room)

    def _fits(self, problem: Problem, lengths: dict[Prompt, int], has_room: Callable[[str], bool]) -> bool:
        """Return whether a problem is not too long. Raises UserError for a text that cannot be encoded."""
        try:
            prompt = problem.conversation
            if prompt not in lengths:
                lengths[prompt] = len(encode_prompt(self.tokenizer, prompt))
            return lengths[prompt] <= self.limit and has_room(problem.answer)
        except UserError as error:
            raise UserError(f"{self.name}, problem {problem.id!r}: {error}") from error

    def draw(self, split: Split, count: int, seed: int) -> tuple[list[Problem], int]:
        """Return the first `count` problems that fit, and how many were left out before the last of them.

        There are fewer where the split ends. Raises UserError where none fits.
        """
        lengths: dict[Prompt, int] = {}
        has_room = self._room_for_answers()
        asked = count
        while True:
            found = self.task.problems(split, asked, seed)
            fitting = [i for i, problem in enumerate(found) if self._fits(problem, lengths, has_room)]
            if len(fitting) >= count or len(found) < asked or (not fitting and asked >= ENOUGH):
                break
            asked *= 2
        if not fitting and min(lengths.values()) <= self.limit:
            raise UserError(
                f"{self.name}: no {split} answer that goes with a prompt which fits has at most {self.longest_answer} "
                "tokens; raise task.completion_length"
            )
        if not fitting:
            raise UserError(
                f"{self.name}: no {split} prompt fits into {max(0, self.limit)} tokens, the shortest has "
                f"{min(lengths.values())}; raise task.max_prompt_tokens, or lower task.completion_length where the "
                "model has no more positions"
            )
        chosen = fitting[:count]
        num_seen = chosen[-1] + 1 if len(fitting) >= count else len(found)
        return [found[i] for i in chosen], num_seen - len(chosen)


def filter_long_rows(
    task: Task, recipe: TaskRecipe, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> Task:
    """Return the task as `filter_long_prompts` does, and without answers that its completions have no room for."""
    filtered = filter_long_prompts(task, recipe, config, tokenizer)
    if isinstance(filtered, PromptFilter):
        return replace(filtered, longest_answer=task.completion_length)
    return filtered


def filter_long_prompts(
    task: Task, recipe: TaskRecipe, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> Task:
    """Return the task without prompts longer than its recipe allows or, without such a limit, than the model does.

    Raises UserError for a tiny model whose characters are those of another task.
    """
    if is_char_tokenizer(tokenizer):
        lacking = sorted(set(characters_of(task)) - tokenizer.backend_tokenizer.get_vocab().keys())
        if lacking:
            raise UserError(
                f"the model was trained on another task than {task.name}: its tokenizer lacks {lacking[:10]!a}; "
                "set the task that it knows (task.kind and its options), or choose another model"
            )
    if not isinstance(recipe, SourceSettings | CustomTask):  # the problems of the others are made to fit
        return task
    limit = recipe.max_prompt_tokens if isinstance(recipe, SourceSettings) else None
    if limit is None:
        limit = most_tokens(config, tokenizer) - task.completion_length
    return PromptFilter(task, tokenizer, limit)


def draw_problems(task: Task, split: Split, count: int, seed: int) -> tuple[list[Problem], int]:
    """Return a task's problems, and how many were left out because their prompts are too long."""
    if isinstance(task, PromptFilter):
        return task.draw(split, count, seed)
    return task.problems(split, count, seed), 0
