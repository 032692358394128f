"""Evaluate a model by a recipe, and write the record that reports are made from."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffpo.core.files import check_writable, explain_write_errors, write_json
from diffpo.core.printable import printable
from diffpo.distributed.collectives import on_rank_zero, process_group, raise_on_all_ranks
from diffpo.distributed.process import rank_slice
from diffpo.evaluation.exchange import share_label
from diffpo.evaluation.loop import Outcome, drawn_together, evaluate_decodings, evaluation_problems, validation_problems
from diffpo.evaluation.measurement import Measurement, measurement_of
from diffpo.evaluation.record import Evaluation
from diffpo.evaluation.validated import Outcomes
from diffpo.models.chat import encode_prompt
from diffpo.models.hub import short_name
from diffpo.models.manifest import whole_folder
from diffpo.recipes.parts import build_rule, build_task
from diffpo.recipes.stored import evaluated_task
from diffpo.recipes.tables import EntropyBoundRule, EvalRecipe, RuleRecipe
from diffpo.runs.agreement import require_same_questions, require_same_start
from diffpo.runs.card_results import add_results
from diffpo.runs.device import configure_model_, configure_torch_, resolve_device
from diffpo.runs.memory_check import check_memory
from diffpo.runs.progress import ProgressBar
from diffpo.runs.prompt_filter import filter_long_prompts
from diffpo.sampling.controller_files import LearnedController
from diffpo.sampling.decoding import Decoding
from diffpo.sampling.policy import Policy, load_folder
from diffpo.sampling.prices import require_sampler
from diffpo.sampling.rules import EntropyBound, HiddenRule, Rule
from diffpo.tasks.base import Problem, Task

LEARNED = "learned"
GRADER_FAILED = "the grader failed on {failed} of {num_answers} answers, which count as wrong; of the first: {failure}"


@process_group()
def run_eval(recipe: EvalRecipe, out: Path) -> str:
    """Evaluate a model by the recipe; write the record that `diffpo report` reads, and return it as a table.

    Several processes share the problems, and the first one writes the record, which is that of a single process.
    Raises UserError for what is wrong with the recipe, the model or its task, and where the record cannot be written.
    """
    return f"{measure(recipe, out)}\nwrote {out}"


@process_group()
def measure(
    recipe: EvalRecipe, out: Path | None = None, policy: Policy | None = None, task: Task | None = None
) -> Measurement:
    """Evaluate a model by the recipe, and write the record to `out` if it is given; as `run_eval`.

    `policy` and `task` stand for the recipe's model and task where they are in memory.
    """
    require_same_start(recipe)
    with raise_on_all_ranks():
        task_recipe = evaluated_task(recipe) if task is None else None
        if out is not None:
            check_writable(out, begins=b"{")
        configure_torch_(recipe)
        folder = None
        if policy is None:
            folder = whole_folder(Path(recipe.model))
            policy = load_folder(folder, *resolve_device(recipe))
            configure_model_(policy.denoiser, recipe)
        if task_recipe is not None:
            task = build_task(task_recipe)
            task = filter_long_prompts(task, task_recipe, policy.denoiser.model.config, policy.tokenizer)
        assert task is not None, "it is given or built"
    label = f"eval {short_name(recipe.model)}"
    num_validation = recipe.num_validation(task_recipe)
    evaluation = evaluate_recipe(recipe, policy, task, num_validation, label)
    about = {"arm": short_name(recipe.model), "task": task.name, "split": recipe.split, "seed": recipe.seed}
    about |= {"block_length": window(recipe, policy, task.completion_length), "cache": recipe.cache}
    measurement = measurement_of(evaluation, policy, about)
    on_rank_zero(_write_record, measurement, out, folder if Path(recipe.model).is_dir() else None)
    return measurement


def _write_record(measurement: Measurement, out: Path | None, folder: Path | None) -> None:
    """Write the record, and add its figures to the card of a model in a folder that is here, which the hub's is not."""
    if out is not None:
        with explain_write_errors(out):
            write_json(out, measurement.record)
        if folder is not None:
            add_results(folder, measurement.record)


def evaluate_recipe(recipe: EvalRecipe, policy: Policy, task: Task, num_validation: int, label: str) -> Evaluation:
    """Answer the recipe's problems, and `num_validation` others, under each of its rules and by the policy's controller
    if it has one."""
    with raise_on_all_ranks():
        test, too_long = evaluation_problems(task, recipe)
        validation = validation_problems(task, recipe, num_validation)
        problems = [*test, *validation]
        block_length = window(recipe, policy, task.completion_length)
        rules = {rule_name(rule): rule for rule in rules_of(recipe)}
        decodings = decodings_of(recipe, rules, policy, task.completion_length, block_length)
        num_own = len(problems[rank_slice(len(problems))])
        check_memory(
            policy.denoiser,
            most_in_flight(recipe, num_own, decodings),
            prompt_tokens=max(len(encode_prompt(policy.tokenizer, problem.conversation)) for problem in problems),
            length=task.completion_length,
            block_length=block_length,
            has_cache=recipe.cache != "none",
            option="max_in_flight",
        )
    require_same_questions([f"{problem.prompt}\0{problem.answer}" for problem in problems], recipe.model)
    with ProgressBar(share_label(label), len(decodings) * num_own, unit="completion") as bar:

        def warn(outcome: Outcome) -> None:
            if failed := outcome.count("grader_failed"):
                first = next((grade.failure for grade in outcome.grades if grade.failure), "no reason given")
                bar.warn(GRADER_FAILED, failed=failed, num_answers=len(outcome.grades), failure=printable(first))

        outcomes = evaluate_decodings(
            policy, task, problems, decodings, recipe.batch, on_outcome=warn, on_progress=lambda done: bar.update(done)
        )
    front = [candidate.name for candidate in policy.sampler.front()] if policy.sampler else []
    return Evaluation(
        _outcomes(test, [outcome.rows(slice(None, len(test))) for outcome in outcomes], rules, front),
        _outcomes(validation, [outcome.rows(slice(len(test), None)) for outcome in outcomes], rules, front)
        if validation
        else None,
        rules,
        task.completion_length,
        too_long,
    )


def _outcomes(
    problems: Sequence[Problem], outcomes: Sequence[Outcome], fixed: Iterable[str], front: Iterable[str]
) -> Outcomes:
    found = {outcome.name: outcome for outcome in outcomes}
    return Outcomes(problems, [found[name] for name in fixed], found.get(LEARNED), [found[name] for name in front])


def most_in_flight(recipe: EvalRecipe, num_problems: int, decodings: Mapping[str, Decoding]) -> int:
    """Return how many completions one process decodes at a time, at most."""
    most_together = max(map(len, drawn_together(decodings, recipe.batch)))
    return min(recipe.max_in_flight or recipe.batch, recipe.batch, max(1, num_problems) * most_together)


def window(recipe: EvalRecipe, policy: Policy, length: int) -> int:
    """Return the block length: as asked for, or the sampler's, as in `complete`, or the whole completion."""
    if recipe.block_length is not None:
        return recipe.block_length
    return policy.sampler.block_length_of(length) if policy.sampler is not None else length


def rules_of(recipe: EvalRecipe) -> list[RuleRecipe]:
    return [*(EntropyBoundRule(bound=bound) for bound in recipe.bounds), *recipe.rules]


def decodings_of(
    recipe: EvalRecipe, rules: Mapping[str, RuleRecipe], policy: Policy, length: int, block_length: int
) -> dict[str, Decoding]:
    """Greedy decodings by name: one for each rule, then those of the policy's learned samplers.

    Raises UserError for a price where no sampler takes one.
    """

    def decoding(rule: Rule | HiddenRule, controller: LearnedController | None = None) -> Decoding:
        return Decoding(
            rule,
            length,
            block_length,
            controller=controller,
            max_in_flight=recipe.max_in_flight,
            cache=recipe.cache,
        )

    found = {name: decoding(build_rule(rule)) for name, rule in rules.items()}
    if policy.controller is not None:
        found[LEARNED] = decoding(EntropyBound(), policy.controller)
    if recipe.price is not None:
        sampler = require_sampler(policy.sampler, policy.controller is not None, recipe.model)
        found[LEARNED] = decoding(sampler.rule_at(recipe.price))
    if policy.sampler is not None:
        rules_used = {candidate.name: policy.sampler.rule(candidate) for candidate in policy.sampler.front()}
        found |= {name: decoding(rule) for name, rule in rules_used.items() if name not in found}
    return found


def rule_name(rule: RuleRecipe) -> str:
    """Return a rule's name in tables and records: `entropy bound 0.1`, `top-k 4`."""
    if isinstance(rule, EntropyBoundRule):
        return f"entropy bound {rule.bound:g}" + ("" if rule.subtract_max else " (plain sum)")
    values = [value for name, value in rule.model_dump().items() if name != "kind"]
    return " ".join([rule.kind, *(f"{value:g}" if isinstance(value, int | float) else str(value) for value in values)])
