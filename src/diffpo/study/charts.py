"""The SVG figures of a study: accuracy along training and at its end, and KL against the call of the rollout."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from diffpo import report
from diffpo.report.svg import Axis, Panel, linear_axis, picture, text
from diffpo.statistics.intervals import Estimate
from diffpo.study.summary import Profile, Trajectory

COLOURS = ("#2f6a96", "#c0432a", "#4f8a3c", "#8a5aa8", "#c08a1e", "#3a8f8c", "#a8456e", "#7b756c")
"""Colours for light and dark backgrounds alike. The ninth line and those after it are dashed."""
WIDTH, HEIGHT, LEGEND_LINE = 380, 280, 18
PANELS_IN_A_ROW = 4
ROW, NAMES = 20, 170
"""In the figure of ends: the height of an arm, the width of their names."""
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
    return _figure(_label(found), panels, "denoiser calls of training", ceiling=100.0)


def ends_svg(found: Sequence[Trajectory]) -> str:
    """Draw the ends of one task: a panel for each rule, a row for each arm with its accuracy; upright, the base's."""
    arms, rules = (list(dict.fromkeys(getattr(t, name) for t in found)) for name in ("arm", "rule"))
    ends = [_percent(t.points[-1].accuracy) for t in found] + [_percent(t.points[0].accuracy) for t in found]
    x = linear_axis([end for estimate in ends for end in estimate.ci95], floor=0.0, ceiling=100.0)
    rows = Axis(0, len(arms), ())
    panel = Panel(WIDTH - 80, ROW * len(arms) + 76, x, rows, left=18)
    body = "".join(
        text((NAMES, panel.at((x.lo, len(arms) - i - 0.5))[1] + 4), arm, "label", "end") for i, arm in enumerate(arms)
    )
    for column, rule in enumerate(rules):
        inner = panel.frame("accuracy at the end, %", rule)
        of_rule = [t for t in found if t.rule == rule]
        if of_rule[0].shares[0] == 0:
            start = 100 * of_rule[0].points[0].accuracy.value
            inner += panel.line([(start, 0), (start, len(arms))], "curve-7")
        for t in of_rule:
            end = _percent(t.points[-1].accuracy)
            at = len(arms) - arms.index(t.arm) - 0.5
            inner += panel.line([(end.ci95[0], at), (end.ci95[1], at)], "curve-0")
            inner += panel.marker((end.value, at), "circle", "curve-0", f"{t.arm}: {_text(end)}")
        body += f'<g transform="translate({NAMES + column * panel.width} 0)">{inner}</g>'
    return picture(NAMES + panel.width * len(rules), panel.height, _label(found), body, _css())


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
    return _figure(f"{found[0].task}: {means}", panels, "denoiser call that committed the token", ceiling=float("inf"))


def _percent(estimate: Estimate) -> Estimate:
    low, high = estimate.ci95
    return Estimate(100 * estimate.value, (100 * low, 100 * high))


def _figure(label: str, panels: dict[str, list[Curve]], x_label: str, ceiling: float) -> str:
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
    bottom = HEIGHT * ceil(len(panels) / PANELS_IN_A_ROW)
    for index, name in enumerate(names):
        at = bottom + LEGEND_LINE * (index + 1)
        mark = f'<line class="line {_style(index)}" x1="46" y1="{at - 4}" x2="76" y2="{at - 4}"/>'
        body += mark + text((84, at), name, "label")
    return picture(
        WIDTH * min(len(panels), PANELS_IN_A_ROW), bottom + LEGEND_LINE * (len(names) + 1), label, body, _css()
    )


def _css() -> str:
    css = (Path(report.__file__).parent / "chart.css").read_text(encoding="utf-8")
    return css + "".join(f".curve-{i} {{ --arm: {colour}; }}\n" for i, colour in enumerate(COLOURS))


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} [{estimate.ci95[0]:.3g}, {estimate.ci95[1]:.3g}]"


def _style(index: int) -> str:
    return f"curve-{index % len(COLOURS)}" + (" dashed" if index >= len(COLOURS) else "")


def _band(panel: Panel, index: int, xs: list[float], estimates: list[Estimate]) -> str:
    return panel.band(xs, [e.ci95[0] for e in estimates], [e.ci95[1] for e in estimates], _style(index))


def _line(panel: Panel, index: int, xs: list[float], estimates: list[Estimate], name: str) -> str:
    marks = "".join(
        panel.marker((x, e.value), "circle", _style(index), f"{name}: {_text(e)}")
        for x, e in zip(xs, estimates, strict=True)
    )
    return panel.line([(x, e.value) for x, e in zip(xs, estimates, strict=True)], _style(index)) + marks
