"""Run a shrunk recipe: some steps, one more from the checkpoint, an evaluation. What fails is a finding."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from diffpo.core.errors import NonFiniteLogitsError, NonFiniteLossError, UserError
from diffpo.core.printable import printable
from diffpo.core.user_code import describe, traceback_of
from diffpo.evaluation.run import run_eval
from diffpo.models.model_paths import METRICS
from diffpo.recipes.tables import EvalRecipe, RlRecipe, SftRecipe, SourceSettings, is_graded
from diffpo.rehearsal.findings import Findings
from diffpo.rehearsal.gold_answers import WithGoldAnswers
from diffpo.rehearsal.movement import Movement
from diffpo.rehearsal.shrink import short_lengths
from diffpo.sampling.policy import Policy
from diffpo.tasks.base import Task
from diffpo.training.rl import run_rl
from diffpo.training.rl_setup import RlState
from diffpo.training.sft import run_sft

EVALUATED = 4
ALL_FAILED = "the grader failed on all"
"""How training refuses a first step that earned nothing for that reason: told once."""


class _Interrupted(Exception):
    """The rehearsal ends a run before the checkpoint of its last step."""


def rehearse_rl_steps(recipe: RlRecipe, run: Path, findings: Findings) -> bool:
    """Run the recipe's steps, the last of them again from a checkpoint; return whether that was possible."""
    movement = Movement()
    tasks: list[WithGoldAnswers] = []

    def adapt(task: Task) -> Task:
        tasks.append(WithGoldAnswers(task))
        return tasks[-1]

    def look(state: RlState, step: int, _calls: int, _share: float) -> None:
        trained: list[nn.Module] = [state.policy.denoiser.model] if "policy" in state.optimizers else []
        movement.look([*trained, *([] if state.policy.controller is None else [state.policy.controller])])
        if step == recipe.budget.steps:
            raise _Interrupted

    done = _attempt("a step of training", lambda: run_rl(recipe, run, False, look, adapt_task=adapt), findings)
    if done:
        movement.check(any(map(_can_learn, _metrics(run))), findings)
        _check_own_grades(tasks, findings)
        done = _resume(run, lambda: run_rl(recipe, run, True, adapt_task=adapt), findings)
    return done


def rehearse_sft_steps(recipe: SftRecipe, run: Path, findings: Findings) -> bool:
    """Do the same with a recipe of supervised fine-tuning."""
    movement = Movement()

    def look(policy: Policy, step: int) -> None:
        movement.look([policy.denoiser.model])
        if step == recipe.steps:
            raise _Interrupted

    done = _attempt("a step of training", lambda: run_sft(recipe, run, False, on_step=look), findings)
    if done:
        movement.check(True, findings)
        done = _resume(run, lambda: run_sft(recipe, run, True), findings)
    return done


def rehearse_evaluation(recipe: RlRecipe | SftRecipe, run: Path, record: Path, findings: Findings) -> None:
    """Evaluate the run's last checkpoint on a few problems, as `diffpo eval` would."""
    if not is_graded(recipe.task):
        return
    rollout = recipe.rollout if isinstance(recipe, RlRecipe) else None
    task = recipe.task
    if rollout is None and isinstance(task, SourceSettings):  # SFT needs its long answers, and this does not
        task = task.model_copy(update={"completion_length": short_lengths(task.completion_length, None)[0]})
    evaluation = EvalRecipe(
        model=str(run),
        task=task,
        count=EVALUATED,
        bounds=(0.1,),
        validation_count=0,
        block_length=rollout.block_length if rollout else None,
        cache=rollout.cache if rollout else "none",
        device=recipe.device,
        dtype=recipe.dtype,
        attention=recipe.attention,
        threads=recipe.threads,
    )
    _attempt("the evaluation", lambda: run_eval(evaluation, record), findings)


def _resume(run: Path, resume: Callable[[], None], findings: Findings) -> bool:
    """Go on from the last checkpoint, and note where the repeated step gives other numbers."""
    before = _last_step(run)
    if not _attempt("the resumption from a checkpoint", resume, findings):
        return False
    after = _last_step(run)
    if other := sorted(name for name, value in before.items() if name in after and after[name] != value):
        findings.note(
            f"the last step, repeated from the checkpoint, gave other numbers ({', '.join(other[:5])}): something in "
            "it, perhaps a reward, is not the same each time, so that a resumed run will not be either"
        )
    return True


def _attempt(what: str, call: Callable[[], object], findings: Findings) -> bool:
    """Call it; where it raises, add a finding. Returns whether it did what it should."""
    try:
        call()
    except _Interrupted:
        return True
    except UserError as error:
        if not (ALL_FAILED in str(error) and findings.rewards_fail):
            findings.fault(f"{what} fails: {error}")
        return False
    except (NonFiniteLossError, NonFiniteLogitsError) as error:
        findings.fault(f"{what} fails: {error}")
        return False
    except Exception as error:  # noqa: BLE001  the user's code may raise anything, and the rest is still worth telling
        findings.fault(f"{what} raises {describe(error)}\n{printable(traceback_of(error))}")
        return False
    return True


def _check_own_grades(tasks: list[WithGoldAnswers], findings: Findings) -> None:
    """Add failures on the model's own texts, unless rewards have failed before."""
    grades = [grade for task in tasks for grade in task.own_grades]
    failed = [grade for grade in grades if grade.status == "grader_failed"]
    if failed and not findings.rewards_fail:
        told = printable(next((grade.failure for grade in failed if grade.failure), "no reason is given"))
        findings.fault(
            f"the reward or the grader fails on {len(failed)} of {len(grades)} completions of the model; of the first: "
            f"{told}"
        )


def _can_learn(metrics: Mapping[str, Any]) -> bool:
    """Return whether a step of RL had rewards that differ within a prompt or, in expert iteration, right answers."""
    return bool(metrics.get("right_answers", metrics["frac_reward_zero_std"] < 1))


def _metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def _last_step(run: Path) -> dict[str, Any]:
    """Return the numbers of the last step that have nothing to do with time."""
    return {name: value for name, value in _metrics(run)[-1].items() if not name.endswith("seconds")}
