"""`table.md` and the SVG figures of a study, from its results alone. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from diffpo.core.errors import UserError
from diffpo.core.files import explain_write_errors, write_whole
from diffpo.study.charts import ends_svg, profiles_svg, trajectories_svg
from diffpo.study.frontiers import PRICE, frontiers
from diffpo.study.grids import check_one_grid
from diffpo.study.results import BOUNDARIES, RUNS, Result, read_results
from diffpo.study.summary import differences, profiles, trajectories
from diffpo.study.tables import (
    Table,
    difference_tables,
    equal_tables,
    final_tables,
    frontier_tables,
    profile_tables,
    settings_tables,
    trajectory_tables,
    verdict_table,
)

TABLE = "table.md"
ARMS_NOTE = (
    "Mean over seeds with 95 % intervals for other problems and other seeds (docs/evaluation.md#intervals); all arms "
    "met the same problems."
)
ONE_BASE, OWN_BASES = "All seeds start from one base.", "Each seed starts from a base of its own."
DIFFERENCES_NOTE = (
    "Points of accuracy by which an arm ends above (or below) another, with 95 % intervals for other problems and "
    "other seeds, both paired. Among many comparisons one in twenty lies off 0 by chance."
)
EQUAL_NOTE = (
    "At equal cost: the area under the greedy frontier of every arm (over log NFE from 1 to the completion's length, "
    "the learned sampler's point included, of fixed bounds those that every point has) where it had spent equal "
    "denoiser calls, equal steps and equal CPU seconds of training, from what all arms reached to what the longest run "
    "did. Between two points of a trajectory figures are taken in proportion. The rate of a run decays with its own "
    "budget of calls, so an arm far from the end of its run is shown a little below what it would reach."
)
FRONTIERS_NOTE = (
    "Area: the mean over log NFE of the best accuracy within so many calls, over all fixed bounds. The constant is the "
    f"bound that validation problems choose at a price of {PRICE:g} for one call per token, in each seed its own. A "
    "learned sampler is compared with the best mixture of fixed bounds of its own model at equal NFE, and with the "
    "bound that is best on validation problems among those that cost no more there; it is ahead where both intervals "
    "are above 0."
)
LIKELIHOOD_NOTE = (
    "KL in nats per token, of the conditional that drew the token to the surrogate's, on the model's own rollouts at "
    "temperature 1; mean over seeds with 95 % intervals for other problems and other seeds."
)
RISES_NOTE = (
    "Assumption 2 says that no figure of the rises is above 0: they are the mean rise of a token's KL when it is "
    "scored on the rollout's canvas of call s instead of s - 1, over the tokens committed after call s. The last table "
    "counts pairs (call of the token, s) whose 95 % interval, by problems, lies below 0 (falls) or above 0 (rises): "
    "where nothing changes, one in 40 rises by chance."
)


def write_study_report(out: Path, skip_broken: bool = False, against: Sequence[str] = ()) -> list[Path]:
    """Write the table and the figures of a folder of results, and return the files.

    All arms are compared with those in `against`. Raises UserError where there are no results, or none of such an arm,
    and where they were measured on different grids of bounds.
    """
    results = read_results(out / RUNS, skip_broken)
    if not results:
        raise UserError(f"nothing to report: {out} holds no results (no {RUNS}, or an empty one)")
    check_one_grid(out / RUNS, results)
    sections = sections_of(results, against)
    texts = charts_of(results)
    texts[TABLE] = "\n".join(part if isinstance(part, str) else part.section for part in sections)
    for name, text in texts.items():
        with explain_write_errors(out / name):
            write_whole(out / name, text)
    return [out / name for name in texts]


def sections_of(results: Sequence[Result], against: Sequence[str] = ()) -> list[str | Table]:
    """Return the tables of results with the paragraphs before them. Raises UserError for an arm that is not there."""
    sections: list[str | Table] = [f"# {results[0]['study']}\n"]
    if arms := _of_kind(results, "arms"):
        found = trajectories(arms)
        has_own = any(
            result["settings"]["base"].get("seed") != arms[0]["settings"]["base"].get("seed") for result in arms
        )
        sections += [f"{ARMS_NOTE} {OWN_BASES if has_own else ONE_BASE}\n", *final_tables(found)]
        whole = frontiers(arms)
        sections += [FRONTIERS_NOTE + "\n", *frontier_tables(whole)] if whole else []
        sections += [DIFFERENCES_NOTE + "\n"] if against else []
        sections += [table for arm in against for table in difference_tables(differences(arms, arm))]
        sections += equal_sections(arms)
        sections += trajectory_tables(found)
    if measured := _of_kind(results, "likelihood"):
        estimators = [result for result in measured if result["estimator"] != BOUNDARIES]
        rises = [result for result in measured if result["estimator"] == BOUNDARIES]
        sections += [LIKELIHOOD_NOTE + "\n", *profile_tables(profiles(estimators), "call"), RISES_NOTE + "\n"]
        sections += [*profile_tables(profiles(rises), "boundary s"), verdict_table(measured)]
    return sections


def equal_sections(arms: Sequence[Result]) -> list[str | Table]:
    """Return the arms at equal cost, and their settings; nothing where older results have no CPU time."""
    if not all("cpu_seconds" in result for result in arms):
        return []
    return [EQUAL_NOTE + "\n", *equal_tables(arms), *settings_tables(arms)]


def charts_of(results: Sequence[Result]) -> dict[str, str]:
    """Return the figures of results, by the names of their files."""
    texts: dict[str, str] = {}
    if arms := _of_kind(results, "arms"):
        found = trajectories(arms)
        for task in dict.fromkeys(trajectory.task for trajectory in found):
            of_task = [t for t in found if t.task == task]
            texts |= {f"trajectories-{task}.svg": trajectories_svg(of_task), f"ends-{task}.svg": ends_svg(of_task)}
    estimators = [result for result in _of_kind(results, "likelihood") if result["estimator"] != BOUNDARIES]
    kl = profiles(estimators) if estimators else []
    for task in dict.fromkeys(profile.task for profile in kl):
        texts[f"kl-{task}.svg"] = profiles_svg([profile for profile in kl if profile.task == task])
    return texts


def _of_kind(results: Sequence[Result], kind: str) -> list[Result]:
    return [result for result in results if result["kind"] == kind]
