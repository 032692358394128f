"""The SVG figures of a study: accuracy along training and at its end, and KL against the call of the rollout."""

from collections.abc import Sequence
from math import ceil

from diffpo.report.figure_file import standalone
from diffpo.report.palette import OTHER, shape_at, style_at
from diffpo.report.svg import GAP, Axis, Key, Panel, legend, linear_axis, picture, text, text_width
from diffpo.report.table import sample_text
from diffpo.statistics.intervals import Estimate
from diffpo.study.summary import Profile, Trajectory

WIDTH, HEIGHT = 380, 280
PANELS_IN_A_ROW = 4
ROW, MOST_NAMES = 20, 240
"""In the figure of ends: the height of an arm, the most room for their names."""
Curve = tuple[str, list[float], list[Estimate]]
"""Name, x values, estimates."""


def trajectories_svg(found: Sequence[Trajectory]) -> str:
    """Draw the trajectories of one task: a panel for each arm, a line for each rule, from base to end of the budget."""
    panels = {}
    for arm in dict.fromkeys(t.arm for t in found):
        panels[f"{arm}: accuracy, %"] = [
            (t.rule, [p.calls for p in t.points], [_percent(p.accuracy) for p in t.points])
            for t in found
            if t.arm == arm
        ]
    return _figure(_label(found), panels, "denoiser calls of training", _sample(found), ceiling=100.0)


def ends_svg(found: Sequence[Trajectory]) -> str:
    """Draw the ends of one task: a panel for each rule, a row for each arm with its accuracy; upright, the base's."""
    arms, rules = (list(dict.fromkeys(getattr(t, name) for t in found)) for name in ("arm", "rule"))
    ends = [_percent(t.points[-1].accuracy) for t in found] + [_percent(t.points[0].accuracy) for t in found]
    x = linear_axis([end for estimate in ends for end in estimate.ci95], floor=0.0, ceiling=100.0)
    rows = Axis(0, len(arms), ())
    panel = Panel(WIDTH - 80, ROW * len(arms) + 76, x, rows, least_left=18)
    names = min(MOST_NAMES, ceil(max(map(text_width, arms))) + GAP)
    body = "".join(
        text((names, panel.at((x.lo, len(arms) - i - 0.5))[1] + 4), arm, "label", "end", room=names - GAP // 2)
        for i, arm in enumerate(arms)
    )
    for column, rule in enumerate(rules):
        of_rule = [t for t in found if t.rule == rule]
        inner = panel.frame("accuracy at the end, %", rule)
        if of_rule[0].shares[0] == 0:
            start = 100 * of_rule[0].points[0].accuracy.value
            inner += panel.line([(start, 0), (start, len(arms))], OTHER)
        for t in of_rule:
            end = _percent(t.points[-1].accuracy)
            index = arms.index(t.arm)
            at = len(arms) - index - 0.5
            inner += panel.line([(end.ci95[0], at), (end.ci95[1], at)], f"{style_at(index)} curve")
            inner += panel.marker((end.value, at), shape_at(index), style_at(index), f"{t.arm}: {_text(end)}")
        body += f'<g transform="translate({names + column * panel.width} 0)">{inner}</g>'
    body += text((0, panel.height - 6), _sample(found), "name")
    return standalone(picture(names + panel.width * len(rules), panel.height, _label(found), body))


def _label(found: Sequence[Trajectory]) -> str:
    ends = (f"{t.arm} at {t.rule} {100 * t.points[-1].accuracy.value:.0f} %" for t in found)
    return f"{found[0].task}: {'; '.join(ends)}"


def profiles_svg(found: Sequence[Profile]) -> str:
    """Draw the profiles of one task: a panel for each model, a line for each estimator."""
    panels = {}
    for arm in dict.fromkeys(p.arm for p in found):
        curves: list[Curve] = []
        for profile in (p for p in found if p.arm == arm):
            known = [(float(i), estimate) for i, estimate in enumerate(profile.by_step) if estimate is not None]
            curves.append((profile.estimator, [x for x, _ in known], [y for _, y in known]))
        panels[f"{arm}: KL per token, nats"] = curves
    means = "; ".join(f"{p.estimator} of {p.arm} {p.mean.value:.2f} nats" for p in found)
    label = f"{found[0].task}: {means}"
    return _figure(label, panels, "denoiser call that committed the token", _sample(found), ceiling=float("inf"))


def _percent(estimate: Estimate) -> Estimate:
    low, high = estimate.ci95
    return Estimate(100 * estimate.value, (100 * low, 100 * high))


def _sample(found: Sequence[Trajectory | Profile]) -> str:
    return sample_text([t.num_problems for t in found], [len(t.seeds) for t in found])


def _figure(label: str, panels: dict[str, list[Curve]], x_label: str, note: str, ceiling: float) -> str:
    """Draw panels in rows on shared axes, and one legend for all."""
    curves = [curve for members in panels.values() for curve in members]
    names = list(dict.fromkeys(name for name, _, _ in curves))
    ends = [end for _, _, estimates in curves for estimate in estimates for end in estimate.ci95]
    x = linear_axis([0.0, *(value for _, xs, _ in curves for value in xs)], floor=0.0)
    y = linear_axis([0.0, *ends], floor=0.0, ceiling=ceiling)
    panel = Panel(WIDTH, HEIGHT, x, y)
    body = ""
    for index, (title, members) in enumerate(panels.items()):
        inner = panel.frame(x_label, title)
        inner += "".join(_band(panel, names.index(name), xs, estimates) for name, xs, estimates in members)
        inner += "".join(_line(panel, names.index(name), xs, estimates, name) for name, xs, estimates in members)
        at_x, at_y = index % PANELS_IN_A_ROW * WIDTH, index // PANELS_IN_A_ROW * HEIGHT
        body += f'<g transform="translate({at_x} {at_y})">{inner}</g>'
    width, bottom = WIDTH * min(len(panels), PANELS_IN_A_ROW), HEIGHT * ceil(len(panels) / PANELS_IN_A_ROW)
    keys = [Key(name, style_at(index), shape_at(index)) for index, name in enumerate(names)]
    key, rows_height = legend(keys, (0, bottom), width)
    key += text((0, bottom + rows_height + 14), note, "name")
    return standalone(picture(width, bottom + rows_height + 20, label, body + key))


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} [{estimate.ci95[0]:.3g}, {estimate.ci95[1]:.3g}]"


def _band(panel: Panel, index: int, xs: list[float], estimates: list[Estimate]) -> str:
    return panel.band(xs, [e.ci95[0] for e in estimates], [e.ci95[1] for e in estimates], style_at(index))


def _line(panel: Panel, index: int, xs: list[float], estimates: list[Estimate], name: str) -> str:
    marks = "".join(
        panel.marker((x, e.value), shape_at(index), style_at(index), f"{name}: {_text(e)}")
        for x, e in zip(xs, estimates, strict=True)
    )
    return panel.line([(x, e.value) for x, e in zip(xs, estimates, strict=True)], style_at(index)) + marks
