"""Prompts that a model has no room for: they are left out and counted, never cut."""

from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.models.chat import encode_prompt
from diffpo.models.tokenizer import is_char_tokenizer
from diffpo.recipes.tables import SourceSettings, TaskRecipe
from diffpo.tasks.base import Grade, Problem, Split, Task

ENOUGH = 2**14
"""Problems without one that fits before it is given up: train problems repeat for ever."""
PROMPTS_TOO_LONG = (
    "{prompts_too_long:g} prompts were longer than the model or task.max_prompt_tokens allows and were left out"
)


@dataclass(frozen=True)
class PromptFilter:
    """A task without the prompts of more than `limit` tokens, chat template included; the others keep their order.

    With it a problem is the task's as it stands, so where nothing is too long nothing changes. The task must give the
    beginning of the same list for a smaller count, as text tasks do.
    """

    task: Task
    tokenizer: PreTrainedTokenizerFast
    limit: int

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def alphabet(self) -> str:
        return self.task.alphabet

    @property
    def completion_length(self) -> int:
        return self.task.completion_length

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        return self.draw(split, count, seed)[0]

    def grade(self, problem: Problem, completion: str) -> Grade:
        return self.task.grade(problem, completion)

    def draw(self, split: Split, count: int, seed: int) -> tuple[list[Problem], int]:
        """The first `count` problems that fit, fewer where the split ends, and how many were left out before the last.

        Raises UserError where none fits.
        """
        lengths: dict[str, int] = {}
        asked = count
        while True:
            found = self.task.problems(split, asked, seed)
            for problem in found:
                if problem.prompt not in lengths:
                    lengths[problem.prompt] = len(encode_prompt(self.tokenizer, problem.prompt))
            places = [place for place, problem in enumerate(found) if lengths[problem.prompt] <= self.limit]
            if len(places) >= count or len(found) < asked or (not places and asked >= ENOUGH):
                break
            asked *= 2
        if not places:
            raise UserError(
                f"{self.name}: no {split} prompt fits into {max(0, self.limit)} tokens, the shortest has "
                f"{min(lengths.values())}; raise task.max_prompt_tokens, or lower task.completion_length where the "
                "model has no more positions"
            )
        chosen = places[:count]
        num_seen = chosen[-1] + 1 if len(places) >= count else len(found)
        return [found[place] for place in chosen], num_seen - len(chosen)


def filter_long_prompts(
    task: Task, recipe: TaskRecipe, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> Task:
    """The task, without what is too long by its recipe or, where that says nothing, for the model of this config."""
    if not isinstance(recipe, SourceSettings):
        return task
    limit = recipe.max_prompt_tokens
    if limit is None:
        limit = prompt_capacity(config, tokenizer, task.completion_length)
    return task if limit is None else PromptFilter(task, tokenizer, limit)


def draw_problems(task: Task, split: Split, count: int, seed: int) -> tuple[list[Problem], int]:
    """A task's problems, and how many were left out because they are too long."""
    if isinstance(task, PromptFilter):
        return task.draw(split, count, seed)
    return task.problems(split, count, seed), 0


def prompt_capacity(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, length: int) -> int | None:
    """Positions of the model that are left beside a completion of `length` tokens.

    None for the tiny models: what their configs say is a default, and no length that they were trained for.
    """
    if is_char_tokenizer(tokenizer):
        return None
    positions: int = getattr(config, "max_sequence_length", None) or config.max_position_embeddings
    return positions - length
