"""Reinforcement learning of the policy, the controller, or both. The loop is `run_rl`; read it from top to bottom."""

import time
from collections.abc import Callable
from pathlib import Path

from diffpo.core.errors import Stopped, UserError
from diffpo.core.options import Resume
from diffpo.distributed.collectives import (
    all_gather_json,
    object_of_rank_zero,
    on_rank_zero,
    process_group,
    raise_on_all_ranks,
)
from diffpo.distributed.process import current_process
from diffpo.recipes.dump import plain_table
from diffpo.recipes.tables import RlRecipe
from diffpo.runs.agreement import require_same_start
from diffpo.runs.interrupt import interruptible
from diffpo.runs.progress import ProgressBar
from diffpo.runs.resume import RunProgress
from diffpo.runs.run_dir import Run, find_run, say_finished
from diffpo.runs.run_lock import RunLock, locked
from diffpo.runs.saving import Checkpoints
from diffpo.runs.trackers import Trackers
from diffpo.training.rl_setup import AdaptTask, RlState, open_rl_run
from diffpo.training.rl_step import collect_rollouts, show_step, spent, stage_at, summary, train_step
from diffpo.training.watch import Watch, check_grader

OnStep = Callable[[RlState, int, int, float], None]
"""Called after a step with the state, the steps done, the denoiser calls so far, and the share of the budget spent."""


@process_group()
def run_rl(
    recipe: RlRecipe,
    out: Path,
    resume: Resume = False,
    on_step: OnStep | None = None,
    extend: bool = False,
    adapt_task: AdaptTask | None = None,
    lock: RunLock | None = None,
) -> None:
    """Train from the recipe into `out`: a JSON line per step, checkpoints, the finished model as the last of them.

    The run ends when the nearest limit of its budget is reached. `resume` goes on with the run in `out`, and with
    "auto" only if there is one; `extend` lets its budget be larger than it was. `on_step` is called before the step's
    checkpoint is written: where it fails, `--resume` repeats the step. `adapt_task` changes how completions are
    graded, as a rehearsal does. The caller may hold the `lock` of `out`.

    Raises UserError, before anything is written, for a task, a base or a memory limit that cannot be met, and
    NonFiniteLossError when a loss is not a number; the last whole checkpoint stays.
    """
    require_same_start(recipe, out)
    recipe.parallel.layout_of(current_process().world_size)
    with locked(out, lock) as held:
        run = object_of_rank_zero(find_run, out, recipe, resume, extend, held)
        if spent(recipe.budget, run.progress.step, run.progress.denoiser_calls) == 1:
            say_finished(run)
        else:
            _train(recipe, run, held, on_step, adapt_task)


def _train(recipe: RlRecipe, run: Run, lock: RunLock, on_step: OnStep | None, adapt_task: AdaptTask | None) -> None:
    """Take the steps that are left."""
    trackers = Trackers(recipe.track, run.path, run.progress.step, plain_table(recipe))
    out, state = run.path, open_rl_run(recipe, run, lock, adapt_task)
    calls_before = run.progress.denoiser_calls
    watch = Watch()
    step = first = run.progress.step  # its checkpoint may be deleted on the way
    calls = calls_before + state.total_usage().canvases
    if step == 0 and spent(recipe.budget, step, calls) >= 1:
        raise UserError(
            f"what comes before the first step took {calls} denoiser calls, and budget.denoiser_calls is "
            f"{recipe.budget.denoiser_calls}; raise it, or lower controller.warm_start.count where there is one"
        )
    unit = "step" if recipe.budget.steps else "denoiser call"

    with raise_on_all_ranks():
        trackers.start()
    with (
        trackers,
        ProgressBar(
            f"rl {out.name}",
            recipe.budget.steps or recipe.budget.denoiser_calls or 0,
            unit=unit,
            done=step if recipe.budget.steps else calls_before,
        ) as bar,
        interruptible() as interrupt,
        Checkpoints(out, recipe.checkpoint) as checkpoints,
    ):
        while (share := spent(recipe.budget, step, calls)) < 1:
            started, cpu_started = time.perf_counter(), time.process_time()
            stage = stage_at(recipe, share)
            before = state.total_usage()
            batch = collect_rollouts(recipe, state, stage, step)
            if step == first:
                check_grader(batch)
            between = state.total_usage()
            metrics = summary(batch, recipe.rollout.speeds) | train_step(recipe, state, stage, batch, step)
            after = state.total_usage()

            step, calls = step + 1, calls_before + after.canvases
            share = spent(recipe.budget, step, calls)
            metrics |= {
                "rollout_tokens": between.tokens - before.tokens,
                "update_tokens": after.tokens - between.tokens,
            }
            metrics |= {"denoiser_calls": calls, "cpu_seconds": time.process_time() - cpu_started}
            metrics |= {"seconds": time.perf_counter() - started}
            on_rank_zero(run.log, step, metrics)
            trackers.log(step, metrics)
            show_step(bar, step if recipe.budget.steps else calls, metrics, batch, watch, state.policy)
            if on_step is not None:
                on_step(state, step, calls, share)

            is_stopped = any(all_gather_json(interrupt.requested or checkpoints.has_failed))
            if is_stopped or share == 1 or step % recipe.checkpoint.every == 0:
                progress = RunProgress(step, calls, base=state.base)
                checkpoints.save(progress, state.policy, state.to_restore, is_last=share == 1)
            if is_stopped and share < 1:
                raise Stopped(f"stopped at step {step}; go on with the same command and --resume")
