"""Colours, marks and lines of charts: one table of styles, as a sheet for a page and as literal values for a file.

The colours of arms are in the hues of Okabe and Ito (blue, orange, green, purple, grey, and one more), made darker for
light paper and lighter for dark, so that names in them can be read (contrast of 4.5 and more), and so far from each
other that readers who see no red, green or blue still tell them apart; `tests/report/test_palette.py` measures both.
Every arm has a shape and a dash of its own, too, for paper without colours.
"""

from collections.abc import Collection, Mapping

Theme = Mapping[str, str]
LIGHT: Theme = {
    "paper": "#fdfcfa",
    "ink": "#1d1b18",
    "soft": "#6a655d",
    "rule": "#e2ddd4",
    "wash": "#f5f2ec",
    "wrong": "#b3261e",
}
DARK: Theme = {
    "paper": "#171614",
    "ink": "#eae6de",
    "soft": "#a29c92",
    "rule": "#37342f",
    "wash": "#201e1b",
    "wrong": "#ff8a80",
}
PRINT: Theme = {**LIGHT, "paper": "#ffffff"}
"""Of a figure in a file, which is put on white paper."""
ARM_LIGHT = ("#2976c6", "#af5b01", "#0e492c", "#843671", "#7a7273", "#49005e")
ARM_DARK = ("#4a95e8", "#dc6410", "#baf5d0", "#a6758f", "#b1b1b1", "#fcd936")
SHAPES = ("circle", "square", "diamond", "triangle", "down", "pentagon", "plus")
DASHES = ("none", "8 3", "3 2.5", "9 3 2 3", "14 3", "6 2 2 2 2 2", "1.5 2")
OTHER = "arm-other"
"""The style of what belongs to no arm."""

STYLES: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("tick", {"fill": "--soft"}),
    ("name", {"fill": "--soft"}),
    ("label", {"fill": "--ink"}),
    ("grid", {"stroke": "--rule", "stroke-width": "1"}),
    ("axis", {"stroke": "--soft", "stroke-width": "1"}),
    ("leader", {"stroke": "--soft", "stroke-width": "1"}),
    ("line", {"fill": "none", "stroke": "--arm", "stroke-width": "1.8", "stroke-linejoin": "round"}),
    *((f"line.dash-{i}", {"stroke-dasharray": dash}) for i, dash in enumerate(DASHES) if i),
    ("line.curve", {"stroke-width": "2.6", "stroke-dasharray": "none"}),
    ("line.minor", {"stroke-width": "1.2", "stroke-dasharray": "2 3"}),
    ("band", {"fill": "--arm", "opacity": ".16"}),
    ("bar", {"stroke": "--arm", "stroke-width": "1.2", "opacity": ".65"}),
    ("mark", {"fill": "--arm", "stroke": "--paper", "stroke-width": "1"}),
    ("mark.hollow", {"fill": "--paper", "stroke": "--arm", "stroke-width": "1.4"}),
)
"""By the classes that an element must have, its properties; of two values the later holds. `--x` is a colour."""


def style_at(place: int) -> str:
    """Return the classes of the arm in a place, counted from 0: its colour and its dash."""
    turn, colour = divmod(place, len(ARM_LIGHT))
    return f"arm-{colour} dash-{(colour + turn) % len(DASHES)}"


def shape_at(place: int) -> str:
    """Return the shape of the marks of the arm in a place, counted from 0."""
    return SHAPES[place % len(SHAPES)]


def colours(theme: Theme) -> dict[str, str]:
    """Return the colours of a theme by their names without `--`, those of arms included."""
    arms = ARM_DARK if theme is DARK else ARM_LIGHT
    return dict(theme) | {f"arm-{i}": colour for i, colour in enumerate(arms)} | {"other": theme["soft"]}


def style_sheet() -> str:
    """Return the sheet of a page with charts, light and dark as the reader's system is."""
    light, dark = (" ".join(f"--{name}: {value};" for name, value in colours(t).items()) for t in (LIGHT, DARK))
    lines = [
        f":root {{ {light} color-scheme: light dark; }}",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}",
        *(f".arm-{i} {{ --arm: var(--arm-{i}); }}" for i in range(len(ARM_LIGHT))),
        f".{OTHER} {{ --arm: var(--other); }}",
        '.chart { font: 12px system-ui, "Helvetica Neue", Arial, sans-serif; }',
        ".chart .tick, .chart .name { font-variant-numeric: tabular-nums; }",
        ".chart .label { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }",
    ]
    for classes, properties in STYLES:
        shown = " ".join(
            f"{name}: {f'var({value})' if value.startswith('--') else value};" for name, value in properties.items()
        )
        lines.append(f".chart .{classes} {{ {shown} }}")
    return "\n".join(lines) + "\n"


def literal(classes: Collection[str], theme: Theme) -> dict[str, str]:
    """Return the properties of an element with these classes, with literal colours."""
    known = colours(theme)
    arm = next((known["other" if name == OTHER else name] for name in classes if name.startswith("arm-")), theme["ink"])
    found: dict[str, str] = {}
    for needed, properties in STYLES:
        if set(needed.split(".")) <= set(classes):
            found |= properties
    named = known | {"arm": arm}
    return {name: named[value[2:]] if value.startswith("--") else value for name, value in found.items()}
