"""Greedy evaluation of the same problems under many rules: accuracy against denoiser calls, with intervals."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.core.randomness import derive_seed
from diffpo.core.rollout import Rollout
from diffpo.models.chat import encode_prompt
from diffpo.models.denoiser import ModelDenoiser
from diffpo.models.hub import short_name
from diffpo.models.tokenizer import decode_text
from diffpo.recipes.parts import rule_of
from diffpo.recipes.stored import evaluated_task
from diffpo.recipes.tables import EntropyBoundRule, EvalRecipe, RuleRecipe, StudyEvaluation
from diffpo.recipes.tasks import task_of
from diffpo.runs.checkpoint import load
from diffpo.runs.device import configure_model_, resolve_device
from diffpo.runs.memory_check import check_memory
from diffpo.runs.progress import Progress
from diffpo.runs.prompt_filter import draw_problems, filter_long_prompts
from diffpo.sampling.controller import Controller
from diffpo.sampling.rules import EntropyBound, Rule
from diffpo.statistics.bootstrap import Estimate, mean_interval
from diffpo.statistics.frontier import aup_estimate, frontier_area_estimate, gain_over_fixed
from diffpo.tasks.base import Problem, Task
from diffpo.training.rollouts import Decoding, answer_in_batches

PLAYED_BACK = 6
GRADER_FAILED = "the grader failed on {failed} of {num_answers} answers, which count as wrong: look at their problems"
FRONTIER_FIGURES = (("area under the frontier", "area"), ("AUP", "aup"))


@dataclass(frozen=True)
class Outcome:
    """One rule on all problems: a column each of the tables that intervals are made from."""

    name: str
    recipe: RuleRecipe | None
    """None: the learned sampler."""
    rollout: Rollout
    is_solved: np.ndarray
    unparseable: int
    """Answers that no grader could read: the model's fault."""
    grader_failed: int
    """Answers that count as wrong because the grader failed: ours."""

    @property
    def nfe(self) -> np.ndarray:
        return self.rollout.nfe.cpu().numpy()


@dataclass(frozen=True)
class Evaluation:
    problems: Sequence[Problem]
    fixed: Sequence[Outcome]
    learned: Outcome | None
    length: int
    prompts_too_long: int = 0
    """Problems that were left out."""

    @property
    def clusters(self) -> list[str]:
        return [problem.cluster for problem in self.problems]


def run_eval(recipe: EvalRecipe, out: Path) -> str:
    """Evaluate a model by the recipe; write the record that `diffpo report` reads, return it as a table."""
    arm, task_recipe = short_name(recipe.model), evaluated_task(recipe)
    denoiser, tokenizer, controller = load(recipe.model, *resolve_device(recipe))
    configure_model_(denoiser, recipe)
    task = filter_long_prompts(task_of(task_recipe), task_recipe, denoiser.model.config, tokenizer)
    with Progress(f"eval {arm}", len(rules_of(recipe)) + (controller is not None)) as bar:
        evaluation = evaluate(recipe, denoiser, tokenizer, controller, task, bar)
    record = {"arm": arm, "task": task.name, "split": recipe.split, "seed": recipe.seed}
    record |= {"block_length": recipe.block_length or task.completion_length, "cache": recipe.cache}
    record |= as_record(evaluation, denoiser, tokenizer)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}); choose another --out") from error
    return f"{table(record)}\nwrote {out}"


def table(record: dict[str, Any]) -> str:
    """A line for each rule, then the figures of the whole frontier."""
    points = [*record["points"], *([record["learned"]] if record["learned"] else [])]
    lines = []
    for point in points:
        accuracy, nfe = _shown(point["accuracy"], point["ci95"]), _shown(point["nfe"], point["nfe_ci95"])
        failed = f"  grader failed on {point['grader_failed']} of {point['n']}" if point["grader_failed"] else ""
        lines.append(f"{point['rule']:24s} accuracy {accuracy}  NFE {nfe}{failed}")
    lines += [f"{name:24s} {_shown(record[key]['value'], record[key]['ci95'])}" for name, key in FRONTIER_FIGURES]
    if gain := record["gain"]:
        lines.append(
            f"{'learned - best fixed':24s} accuracy {_shown(gain['accuracy'], gain['accuracy_ci95'])} at equal NFE, "
            f"calls saved {_shown(gain['nfe'], gain['nfe_ci95'])} at equal accuracy"
        )
    if left_out := record["prompts_too_long"]:
        lines.append(f"{'prompts too long':24s} {left_out}, left out of all of this; {points[0]['n']} were measured")
    return "\n".join(lines)


def _shown(value: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def rules_of(recipe: EvalRecipe) -> list[RuleRecipe]:
    return [*(EntropyBoundRule(bound=bound) for bound in recipe.bounds), *recipe.rules]


def problems_of(task: Task, recipe: EvalRecipe | StudyEvaluation) -> tuple[list[Problem], int]:
    """The problems that everything measured with these settings meets, and how many are left out as too long."""
    return draw_problems(task, recipe.split, recipe.count, derive_seed(recipe.seed, "eval"))


def evaluate(
    recipe: EvalRecipe,
    denoiser: ModelDenoiser,
    tokenizer: PreTrainedTokenizerFast,
    controller: Controller | None,
    task: Task,
    bar: Progress,
) -> Evaluation:
    """Every rule, and the learned sampler if there is one, on the same problems."""
    resolve_device(recipe)
    problems, too_long = problems_of(task, recipe)
    block_length = recipe.block_length or task.completion_length
    check_memory(
        denoiser,
        min(recipe.max_in_flight or recipe.batch, recipe.batch, len(problems)),
        prompt_tokens=max(len(encode_prompt(tokenizer, problem.prompt)) for problem in problems),
        length=task.completion_length,
        block_length=block_length,
        has_cache=recipe.cache != "none",
        option="max_in_flight",
    )

    def outcome(name: str, kind: RuleRecipe | None, rule: Rule, controller: Controller | None) -> Outcome:
        length, cache = task.completion_length, recipe.cache
        decoding = Decoding(
            rule, length, block_length, controller=controller, max_in_flight=recipe.max_in_flight, cache=cache
        )
        rollouts, grades = answer_in_batches(denoiser, tokenizer, task, problems, decoding, recipe.batch)
        solved = [grade.is_solved for grade in grades]
        statuses = Counter(grade.status for grade in grades)
        if failed := statuses["grader_failed"]:
            bar.warn(GRADER_FAILED, failed=failed, num_answers=len(grades))
        bar.update(len(done) + 1, rule=name, accuracy=float(np.mean(solved)))
        return Outcome(
            name, kind, concatenate_rollouts(rollouts), np.array(solved, dtype=float), statuses["unparseable"], failed
        )

    done: list[Outcome] = []
    for kind in rules_of(recipe):
        done.append(outcome(name_of(kind), kind, rule_of(kind), None))
    learned = outcome("learned", None, EntropyBound(), controller) if controller is not None else None
    return Evaluation(problems, done, learned, task.completion_length, too_long)


def concatenate_rollouts(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts of batches put back together, their prompts padded to one width."""
    width = max(rollout.prompt_ids.shape[1] for rollout in rollouts)
    wide = [
        replace(
            rollout,
            prompt_ids=F.pad(rollout.prompt_ids, (width - rollout.prompt_ids.shape[1], 0)),
            prompt_mask=F.pad(rollout.prompt_mask, (width - rollout.prompt_mask.shape[1], 0), value=False),
        )
        for rollout in rollouts
    ]
    return Rollout(**{name: torch.cat([getattr(part, name) for part in wide]) for name in Rollout.__dataclass_fields__})


def name_of(rule: RuleRecipe) -> str:
    values = {name: value for name, value in rule.model_dump().items() if name != "kind"}
    if isinstance(rule, EntropyBoundRule):
        return f"entropy bound {rule.bound:g}" + ("" if rule.subtract_max else " (plain sum)")
    return f"{rule.kind} " + " ".join(f"{value:g}" for value in values.values())


def as_record(evaluation: Evaluation, denoiser: ModelDenoiser, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Figures with intervals, and the rows they come from."""
    fixed, learned, clusters, length = evaluation.fixed, evaluation.learned, evaluation.clusters, evaluation.length
    solved = np.stack([outcome.is_solved for outcome in fixed], axis=1)
    nfe = np.stack([outcome.nfe for outcome in fixed], axis=1)
    gain = None
    if learned is not None:
        found = gain_over_fixed(solved, nfe, learned.is_solved, learned.nfe, clusters)
        gain = dict(vars(found))
    points = [_point(outcome, clusters) for outcome in fixed]
    shown = learned or fixed[int(np.argmin(np.abs(nfe.mean(axis=0) - length / 3)))]
    return {
        "completion_length": length,
        "prompts_too_long": evaluation.prompts_too_long,
        "clusters": clusters,
        "clues": clues_of(evaluation.problems),
        "points": points,
        "learned": _learned(learned, evaluation.problems, clusters) if learned is not None else None,
        "area": _estimate(frontier_area_estimate(solved, nfe, clusters, hi=length)),
        "aup": aup_of(points, clusters, length, best_accuracy=max(point["accuracy"] for point in points)),
        "gain": gain,
        "playback": [
            _played_back(evaluation.problems[row], shown, row, denoiser, tokenizer)
            for row in range(min(PLAYED_BACK, len(evaluation.problems)))
        ],
    }


def aup_of(
    points: Sequence[Mapping[str, Any]], clusters: Sequence[str], length: int, best_accuracy: float
) -> dict[str, Any]:
    """AUP of a record's points; `best_accuracy`, of all methods that are compared, scales it."""
    solved, nfe = (np.array([point[rows] for point in points], dtype=float).T for rows in ("solved", "nfe_rows"))
    return _estimate(aup_estimate(solved, nfe, clusters, length, 100 * best_accuracy))


def clues_of(problems: Sequence[Problem]) -> list[int]:
    """The clues of each problem, which tables of the learned sampler group by; empty for a task that has none."""
    return [int(problem.facts["clues"]) for problem in problems if "clues" in problem.facts]


def _point(outcome: Outcome, clusters: list[str]) -> dict[str, Any]:
    recipe = outcome.recipe
    return {
        "rule": outcome.name,
        "kind": recipe.kind if recipe is not None else "learned",
        "bound": recipe.bound if isinstance(recipe, EntropyBoundRule) else None,
        "accuracy": float(outcome.is_solved.mean()),
        "ci95": mean_interval(outcome.is_solved, clusters),
        "nfe": float(outcome.nfe.mean()),
        "nfe_ci95": mean_interval(outcome.nfe, clusters),
        "n": len(outcome.is_solved),
        "unparseable": outcome.unparseable,
        "grader_failed": outcome.grader_failed,
        "solved": outcome.is_solved.astype(int).tolist(),
        "nfe_rows": outcome.nfe.tolist(),
    }


def _learned(outcome: Outcome, problems: Sequence[Problem], clusters: list[str]) -> dict[str, Any]:
    bounds = outcome.rollout.entropy_bound.cpu().numpy()
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, clues in enumerate(clues_of(problems)):
        groups[clues].append(row)
    by_clues = [
        {
            "clues": clues,
            "n": len(rows),
            "bound": float(np.median(bounds[rows])),
            "accuracy": float(outcome.is_solved[rows].mean()),
            "nfe": float(outcome.nfe[rows].mean()),
        }
        for clues, rows in sorted(groups.items())
    ]
    return _point(outcome, clusters) | {"bounds": bounds.tolist(), "by_clues": by_clues}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": estimate.ci95}


def _played_back(
    problem: Problem, outcome: Outcome, row: int, denoiser: ModelDenoiser, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    rollout = outcome.rollout
    bound = float(rollout.entropy_bound[row])
    return {
        "prompt": problem.prompt,
        "clues": problem.facts.get("clues"),
        "answer": problem.answer,
        "completion": decode_text(tokenizer, rollout.completion_ids[row].tolist(), denoiser.stop_ids),
        "unmask_step": rollout.unmask_step[row].tolist(),
        "nfe": int(rollout.nfe[row]),
        "solved": bool(outcome.is_solved[row]),
        "entropy_bound": None if np.isnan(bound) else bound,
    }
