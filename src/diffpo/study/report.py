"""`table.md` and the SVG figures of a study, from its results alone. Imports no torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo.core.errors import UserError
from diffpo.core.files import explain_write_errors, write_whole
from diffpo.report.table import interval_percent, percent
from diffpo.statistics.constant import verdict
from diffpo.statistics.intervals import Estimate
from diffpo.study.charts import ends_svg, profiles_svg, trajectories_svg
from diffpo.study.equal import Spent, at_equal
from diffpo.study.frontiers import PRICE, Frontier, frontiers
from diffpo.study.grids import check_one_grid
from diffpo.study.results import BOUNDARIES, RUNS, Result, read_results
from diffpo.study.summary import Difference, Profile, Trajectory, differences, profiles, trajectories, verdicts

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
EQUAL: Mapping[str, Spent] = {"denoiser calls": "calls", "steps": "steps", "CPU seconds": "cpu_seconds"}
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
LEARNED_COLUMNS = ("learned - mixture", "learned - constant", "calls saved", "learned is")
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
    texts: dict[str, str] = {}
    sections = [f"# {results[0]['study']}\n"]
    if arms := [result for result in results if result["kind"] == "arms"]:
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
        sections += settings_tables(arms) if all("cpu_seconds" in result for result in arms) else []
        sections += trajectory_tables(found)
        for task in dict.fromkeys(trajectory.task for trajectory in found):
            of_task = [t for t in found if t.task == task]
            texts |= {f"trajectories-{task}.svg": trajectories_svg(of_task), f"ends-{task}.svg": ends_svg(of_task)}
    if measured := [result for result in results if result["kind"] == "likelihood"]:
        estimators = [result for result in measured if result["estimator"] != BOUNDARIES]
        rises = [result for result in measured if result["estimator"] == BOUNDARIES]
        kl = profiles(estimators)
        sections += [LIKELIHOOD_NOTE + "\n", *profile_tables(kl, "call"), RISES_NOTE + "\n"]
        sections += [*profile_tables(profiles(rises), "boundary s"), verdict_table(measured)]
        for task in dict.fromkeys(profile.task for profile in kl):
            texts[f"kl-{task}.svg"] = profiles_svg([profile for profile in kl if profile.task == task])
    texts[TABLE] = "\n".join(sections)
    for name, text in texts.items():
        with explain_write_errors(out / name):
            write_whole(out / name, text)
    return [out / name for name in texts]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in body) + "\n"


def share_text(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} {interval_percent(estimate.ci95)}"


def plain_text(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return "-"
    low, high = estimate.ci95
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def final_tables(found: Sequence[Trajectory]) -> Iterator[str]:
    """Yield for each task the figures at the end of the budget: a row for each arm and rule, after the base's."""
    for task, members in _by_task(found):
        rows = [("base", t.rule, "", share_text(t.points[0].accuracy), "", plain_text(t.points[0].nfe, 2))
                for t in members if t.arm == members[0].arm and t.shares[0] == 0]  # fmt: skip
        for t in members:
            end = t.points[-1]
            each = " ".join(percent(value) for value in end.by_seed)
            seeds = " ".join(map(str, t.seeds))
            rows.append((t.arm, t.rule, seeds, share_text(end.accuracy), each, plain_text(end.nfe, 2)))
        header = ("arm", "rule", "seeds", "accuracy % at the end", "by seed", "NFE")
        yield f"## {task}: at the end of the budget\n\n{markdown_table(header, rows)}"


def equal_sections(arms: Sequence[Result]) -> Iterator[str]:
    """Yield for each task the arms at equal calls, steps and CPU time; nothing where older results have no CPU time."""
    if not all("cpu_seconds" in result for result in arms):
        return
    yield EQUAL_NOTE + "\n"
    found = {name: at_equal(arms, spent) for name, spent in EQUAL.items()}
    for task in dict.fromkeys(result["task"] for result in arms):
        for name, of_all in found.items():
            areas = {(one.arm, one.amount): plain_text(one.area, 3) for one in of_all if one.task == task}
            names, amounts = list(dict.fromkeys(arm for arm, _ in areas)), list(dict.fromkeys(x for _, x in areas))
            rows = [[arm, *(areas.get((arm, amount), "-") for amount in amounts)] for arm in names]
            header = ["arm", *(f"{amount:,.0f} {name}" for amount in amounts)]
            yield f"## {task}: area at equal {name}\n\n{markdown_table(header, rows)}"


def settings_tables(arms: Sequence[Result]) -> Iterator[str]:
    """Yield for each task the rate and the rule of the rollouts of each arm, as they were given or tuned."""
    for task in dict.fromkeys(result["task"] for result in arms):
        settings = {result["arm"]: result["settings"]["rl"] for result in arms if result["task"] == task}
        rows = []
        for arm, rl in settings.items():
            rule = dict(rl["rollout"]["rule"])
            kind = rule.pop("kind")
            learned = _learned_rule(rl["controller"]) if rl["train"] != "policy" else ""
            options = ", ".join(f"{name} {value}" for name, value in rule.items() if not isinstance(value, bool))
            rows.append([arm, f"{rl['optimizer']['lr']:g}", learned or f"{kind}, {options}"])
        yield f"## {task}: rates and rules of rollouts\n\n{markdown_table(('arm', 'rate', 'rollouts'), rows)}"


def frontier_tables(found: Sequence[Frontier]) -> Iterator[str]:
    """Yield for each task a row for each arm: the area of its frontier, its validated constant, its learned sampler."""
    for task in dict.fromkeys(frontier.task for frontier in found):
        rows = [
            (
                f.arm,
                " ".join(map(str, f.seeds)),
                share_text(f.area),
                ", ".join(dict.fromkeys(f.constants)),
                share_text(f.accuracy),
                plain_text(f.nfe, 2),
                *_learned_cells(f),
            )
            for f in found
            if f.task == task
        ]
        header = ("arm", "seeds", "area %", "constants", "accuracy % of these", "NFE", *LEARNED_COLUMNS)
        yield f"## {task}: whole frontiers at the end of the budget\n\n{markdown_table(header, rows)}"


def _learned_cells(frontier: Frontier) -> tuple[str, str, str, str]:
    mixture, constant = frontier.gain, frontier.validated_gain
    if mixture is None or constant is None:
        return ("",) * 4
    return (
        points_text(Estimate(mixture.accuracy, mixture.accuracy_ci95)),
        points_text(Estimate(constant.accuracy, constant.accuracy_ci95)),
        plain_text(Estimate(constant.nfe, constant.nfe_ci95), 2),
        verdict(mixture.accuracy_ci95, constant.accuracy_ci95),
    )


def difference_tables(found: Sequence[Difference]) -> Iterator[str]:
    """Yield for each task the gains over another arm: a row for each arm, a column for each rule."""
    for task in dict.fromkeys(difference.task for difference in found):
        members = [difference for difference in found if difference.task == task]
        rules = list(dict.fromkeys(difference.rule for difference in members))
        gains = {(d.arm, d.rule): points_text(d.gain) for d in members}
        seeds = {d.arm: " ".join(map(str, d.seeds)) for d in members}
        rows = [(arm, seeds[arm], *(gains.get((arm, rule), "-") for rule in rules)) for arm in seeds]
        title = f"## {task}: against {members[0].against} at the end of the budget"
        yield f"{title}\n\n{markdown_table(('arm', 'seeds', *rules), rows)}"


def points_text(estimate: Estimate) -> str:
    """Return a difference of shares in percentage points."""
    low, high = (100 * end for end in estimate.ci95)
    return f"{100 * estimate.value:+.1f} [{low:.1f}, {high:.1f}]"


def trajectory_tables(found: Sequence[Trajectory]) -> Iterator[str]:
    """Yield all points of all arms, a table for each task and rule."""
    for task, members in _by_task(found):
        for rule in dict.fromkeys(t.rule for t in members):
            of_rule = [t for t in members if t.rule == rule]
            shares = list(dict.fromkeys(share for t in of_rule for share in t.shares))
            rows = [
                [t.arm, *(share_text(t.points[t.shares.index(s)].accuracy) if s in t.shares else "-" for s in shares)]
                for t in of_rule
            ]
            header = ["arm", *(f"{100 * share:g} %" for share in shares)]
            yield f"## {task}, {rule}: accuracy % by share of the budget\n\n{markdown_table(header, rows)}"


def profile_tables(found: Sequence[Profile], what: str) -> Iterator[str]:
    """Yield for each task a row for each model and estimator, a column for each call or boundary with any tokens."""
    for task in dict.fromkeys(profile.task for profile in found):
        members = [profile for profile in found if profile.task == task]
        columns = [i for i in range(len(members[0].by_step)) if any(p.by_step[i] is not None for p in members)]
        header = ["model", "estimator", "seeds", "all tokens", *(f"{what} {i}" for i in columns)]
        rows = [
            [p.arm, p.estimator, " ".join(map(str, p.seeds)), plain_text(p.mean, 3)]
            + [plain_text(p.by_step[i], 3) for i in columns]
            for p in members
        ]
        title = "rise of the KL" if what.startswith("boundary") else "KL"
        yield f"## {task}: {title} by {what}\n\n{markdown_table(header, rows)}"


def verdict_table(results: Sequence[Result]) -> str:
    """Return how many pairs (call, boundary) fall, rise or are undecided: a row for each task, model and seed."""
    rows = [(v.task, v.arm, *map(str, (v.seed, v.falling, v.undecided, v.rising))) for v in verdicts(results)]
    return markdown_table(("task", "model", "seed", "falls", "undecided", "rises"), rows)


def _by_task(found: Sequence[Trajectory]) -> Iterator[tuple[str, list[Trajectory]]]:
    for task in dict.fromkeys(t.task for t in found):
        yield task, [t for t in found if t.task == task]


def _learned_rule(controller: Mapping[str, Any]) -> str:
    """Return what a stored `controller` table says of rollouts; older ones have no kind."""
    kind = controller.get("kind", "entropy-bound")
    return kind if kind != "entropy-bound" else f"controller, from {controller['initial_bound']:g}"
