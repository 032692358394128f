"""Start a training run of either kind, from a command or from Python. Imports torch only once the inputs are right."""

from pathlib import Path

from diffpo.core.files import check_writable
from diffpo.core.options import Resume
from diffpo.distributed.together import refused_together
from diffpo.recipes.tables import RlRecipe, SftRecipe
from diffpo.recipes.tasks import check_inputs
from diffpo.runs.run_lock import RunLock


def start_training(
    recipe: RlRecipe | SftRecipe, out: Path, resume: Resume = False, extend: bool = False, lock: RunLock | None = None
) -> None:
    """Check the recipe's inputs and the run's folder, then train as `run_sft` or `run_rl` does.

    The caller may hold the `lock` of `out`.

    Raises UserError for inputs that cannot be used and a folder that cannot be written, and what the two raise.
    """
    with refused_together():
        check_inputs(recipe)
        if resume is not True:
            check_writable(out, is_folder=True)
    if isinstance(recipe, SftRecipe):
        from diffpo.training.sft import run_sft

        run_sft(recipe, out, resume, extend=extend, lock=lock)
    else:
        from diffpo.training.rl import run_rl

        run_rl(recipe, out, resume, extend=extend, lock=lock)
