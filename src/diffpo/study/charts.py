"""The figures of a study: accuracy against denoiser calls of training, and KL against the call of the rollout."""

from collections.abc import Sequence
from pathlib import Path

from diffpo import report
from diffpo.report.svg import Panel, linear_axis, picture, text
from diffpo.stats import Estimate
from diffpo.study.summary import Profile, Trajectory

COLOURS = ("#2f6a96", "#c0432a", "#4f8a3c", "#8a5aa8", "#c08a1e", "#3a8f8c", "#a8456e", "#7b756c")
"""For light and dark paper alike. The ninth line and those after it are dashed."""
WIDTH, HEIGHT, LEGEND_LINE = 380, 280, 18
Curve = tuple[str, list[float], list[Estimate]]
"""Name, places on the x axis, figures with intervals."""


def trajectories_svg(found: Sequence[Trajectory]) -> str:
    """One task: a panel for each rule, a line for each arm, from the base to the end of the budget."""
    panels = {}
    for rule in dict.fromkeys(t.rule for t in found):
        of_rule = [t for t in found if t.rule == rule]
        panels[f"{rule}: accuracy, %"] = [
            (t.arm, [p.calls for p in t.points], [_percent(p.accuracy) for p in t.points]) for t in of_rule
        ]
    ends = "; ".join(f"{t.arm} at {t.rule} {100 * t.points[-1].accuracy.value:.0f} %" for t in found)
    return _figure(f"{found[0].task}: {ends}", panels, "denoiser calls of training", ceiling=100.0)


def profiles_svg(found: Sequence[Profile]) -> str:
    """One task: a panel for each model, a line for each estimator."""
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
    """Panels side by side on shared axes, and one legend for all."""
    curves = [curve for members in panels.values() for curve in members]
    names = list(dict.fromkeys(name for name, _, _ in curves))
    ends = [end for _, _, estimates in curves for estimate in estimates for end in estimate.ci95]
    x = linear_axis([0.0, *(value for _, xs, _ in curves for value in xs)], floor=0.0)
    y = linear_axis([0.0, *ends], floor=0.0, ceiling=ceiling)
    panel = Panel(WIDTH, HEIGHT, x, y)
    body = ""
    for place, (title, members) in enumerate(panels.items()):
        inner = panel.frame(x_label, title)
        inner += "".join(_band(panel, names.index(name), xs, estimates) for name, xs, estimates in members)
        inner += "".join(_line(panel, names.index(name), xs, estimates, name) for name, xs, estimates in members)
        body += f'<g transform="translate({place * WIDTH} 0)">{inner}</g>'
    for place, name in enumerate(names):
        at = HEIGHT + LEGEND_LINE * (place + 1)
        mark = f'<line class="line {_style(place)}" x1="46" y1="{at - 4}" x2="76" y2="{at - 4}"/>'
        body += mark + text((84, at), name, "label")
    css = (Path(report.__file__).parent / "chart.css").read_text(encoding="utf-8")
    css += "".join(f".curve-{i} {{ --arm: {colour}; }}\n" for i, colour in enumerate(COLOURS))
    return picture(WIDTH * len(panels), HEIGHT + LEGEND_LINE * (len(names) + 1), label, body, css)


def _style(place: int) -> str:
    return f"curve-{place % len(COLOURS)}" + (" dashed" if place >= len(COLOURS) else "")


def _band(panel: Panel, place: int, xs: list[float], estimates: list[Estimate]) -> str:
    return panel.band(xs, [e.ci95[0] for e in estimates], [e.ci95[1] for e in estimates], _style(place))


def _line(panel: Panel, place: int, xs: list[float], estimates: list[Estimate], name: str) -> str:
    marks = "".join(
        panel.marker((x, e.value), "circle", _style(place), f"{name}: {e.value:.3g} [{e.ci95[0]:.3g}, {e.ci95[1]:.3g}]")
        for x, e in zip(xs, estimates, strict=True)
    )
    return panel.line([(x, e.value) for x, e in zip(xs, estimates, strict=True)], _style(place)) + marks
