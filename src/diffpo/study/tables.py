"""The tables of a study, as texts for `table.md` and at full precision for CSV."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffpo.report.table import interval_percent, percent
from diffpo.statistics.constant import verdict
from diffpo.statistics.intervals import Estimate
from diffpo.study.equal import Spent, at_equal
from diffpo.study.frontiers import Frontier
from diffpo.study.results import Result
from diffpo.study.summary import Difference, Profile, Trajectory, verdicts

LEARNED_COLUMNS = ("learned - mixture", "learned - constant", "calls saved", "learned is")
EQUAL: Mapping[str, Spent] = {"denoiser calls": "calls", "steps": "steps", "CPU seconds": "cpu_seconds"}


@dataclass(frozen=True)
class Shown:
    """A figure as a table shows it; `scale` is what the estimate is multiplied by in its unit."""

    text: str
    estimate: Estimate
    scale: int = 1

    def __str__(self) -> str:
        return self.text


Cell = str | Shown


@dataclass(frozen=True)
class Table:
    """What is shown of a task."""

    task: str
    what: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def section(self) -> str:
        """The table in Markdown under its title; without a task it has none."""
        title = f"## {self.task}: {self.what}\n\n" if self.task else ""
        return title + markdown_table(self.header, self.rows)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    body: list[Sequence[Cell]] = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in body) + "\n"


def share_text(estimate: Estimate) -> Shown:
    """Return a share in percent."""
    return Shown(f"{percent(estimate.value)} {interval_percent(estimate.ci95)}", estimate, 100)


def plain_text(estimate: Estimate | None, digits: int) -> Cell:
    if estimate is None:
        return "-"
    low, high = estimate.ci95
    return Shown(f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]", estimate)


def points_text(estimate: Estimate) -> Shown:
    """Return a difference of shares in percentage points."""
    low, high = (100 * end for end in estimate.ci95)
    return Shown(f"{100 * estimate.value:+.1f} [{low:.1f}, {high:.1f}]", estimate, 100)


def final_tables(found: Sequence[Trajectory]) -> Iterator[Table]:
    """Yield for each task the figures at the end of the budget: a row for each arm and rule, after the base's."""
    for task, members in _by_task(found):
        first = [t for t in members if t.arm == members[0].arm and t.shares[0] == 0]
        rows: list[Sequence[Cell]] = [
            ("base", t.rule, "", share_text(t.points[0].accuracy), "", plain_text(t.points[0].nfe, 2)) for t in first
        ]
        for t in members:
            end = t.points[-1]
            each = " ".join(percent(value) for value in end.by_seed)
            seeds = " ".join(map(str, t.seeds))
            rows.append((t.arm, t.rule, seeds, share_text(end.accuracy), each, plain_text(end.nfe, 2)))
        header = ("arm", "rule", "seeds", "accuracy % at the end", "by seed", "NFE")
        yield Table(task, "at the end of the budget", header, rows)


def equal_tables(arms: Sequence[Result]) -> Iterator[Table]:
    """Yield for each task the arms at equal calls, steps and CPU time."""
    found = {name: at_equal(arms, spent) for name, spent in EQUAL.items()}
    for task in dict.fromkeys(result["task"] for result in arms):
        for name, of_all in found.items():
            areas = {(one.arm, one.amount): plain_text(one.area, 3) for one in of_all if one.task == task}
            names, amounts = list(dict.fromkeys(arm for arm, _ in areas)), list(dict.fromkeys(x for _, x in areas))
            rows = [[arm, *(areas.get((arm, amount), "-") for amount in amounts)] for arm in names]
            header = ["arm", *(f"{amount:,.0f} {name}" for amount in amounts)]
            yield Table(task, f"area at equal {name}", header, rows)


def settings_tables(arms: Sequence[Result]) -> Iterator[Table]:
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
        yield Table(task, "rates and rules of rollouts", ("arm", "rate", "rollouts"), rows)


def frontier_tables(found: Sequence[Frontier]) -> Iterator[Table]:
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
        yield Table(task, "whole frontiers at the end of the budget", header, rows)


def _learned_cells(frontier: Frontier) -> tuple[Cell, ...]:
    mixture, constant = frontier.gain, frontier.validated_gain
    if mixture is None or constant is None:
        return ("",) * 4
    return (
        points_text(Estimate(mixture.accuracy, mixture.accuracy_ci95)),
        points_text(Estimate(constant.accuracy, constant.accuracy_ci95)),
        plain_text(Estimate(constant.nfe, constant.nfe_ci95), 2),
        verdict(mixture.accuracy_ci95, constant.accuracy_ci95),
    )


def difference_tables(found: Sequence[Difference]) -> Iterator[Table]:
    """Yield for each task the gains over another arm: a row for each arm, a column for each rule."""
    for task in dict.fromkeys(difference.task for difference in found):
        members = [difference for difference in found if difference.task == task]
        rules = list(dict.fromkeys(difference.rule for difference in members))
        gains = {(d.arm, d.rule): points_text(d.gain) for d in members}
        seeds = {d.arm: " ".join(map(str, d.seeds)) for d in members}
        rows = [(arm, seeds[arm], *(gains.get((arm, rule), "-") for rule in rules)) for arm in seeds]
        title = f"against {members[0].against} at the end of the budget"
        yield Table(task, title, ("arm", "seeds", *rules), rows)


def trajectory_tables(found: Sequence[Trajectory]) -> Iterator[Table]:
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
            yield Table(f"{task}, {rule}", "accuracy % by share of the budget", header, rows)


def profile_tables(found: Sequence[Profile], what: str) -> Iterator[Table]:
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
        yield Table(task, f"{title} by {what}", header, rows)


def verdict_table(results: Sequence[Result]) -> Table:
    """Return how many pairs (call, boundary) fall, rise or are undecided: a row for each task, model and seed."""
    rows = [(v.task, v.arm, *map(str, (v.seed, v.falling, v.undecided, v.rising))) for v in verdicts(results)]
    return Table("", "pairs that fall and rise", ("task", "model", "seed", "falls", "undecided", "rises"), rows)


def _by_task(found: Sequence[Trajectory]) -> Iterator[tuple[str, list[Trajectory]]]:
    for task in dict.fromkeys(t.task for t in found):
        yield task, [t for t in found if t.task == task]


def _learned_rule(controller: Mapping[str, Any]) -> str:
    """Return what a stored `controller` table says of rollouts; older ones have no kind."""
    kind = controller.get("kind", "entropy-bound")
    return kind if kind != "entropy-bound" else f"controller, from {controller['initial_bound']:g}"
