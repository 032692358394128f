"""A chart as a file of its own that every viewer, converter and paper shows alike: literal colours, no style sheet.

Converters (rsvg-convert, cairosvg, Inkscape) read no CSS variables, and some no `paint-order`; Chromium reads both, so
that a chart can look right on a page and be black in a paper.
"""

from xml.etree import ElementTree

from diffpo.core.printable import printable
from diffpo.report.palette import PRINT, literal
from diffpo.report.svg import num

MARGIN = 20
"""User units of paper around the chart."""
FONT = {"font-family": "Helvetica, Arial, sans-serif", "font-size": "12"}
HALO = {"fill": "none", "stroke-width": "4", "stroke-linejoin": "round"}


def standalone(chart: str) -> str:
    """Return a chart of a page, an `<svg>` with classes, as the contents of a file.

    Each label is drawn twice: the first, in the colour of the paper, keeps lines away from it.
    """
    root = ElementTree.fromstring(printable(chart))
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    _style(root)
    width, height = width + 2 * MARGIN, height + 2 * MARGIN
    box = {"width": num(width), "height": num(height)}
    corner = {"x": num(-MARGIN), "y": num(-MARGIN)}
    root.insert(1, ElementTree.Element("rect", corner | box | {"fill": PRINT["paper"]}))  # after the title
    root.attrib.pop("class", None)
    view = f"{num(-MARGIN)} {num(-MARGIN)} {num(width)} {num(height)}"
    root.attrib.update({"xmlns": "http://www.w3.org/2000/svg", **box, "viewBox": view, **FONT})
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _style(parent: ElementTree.Element) -> None:
    """Give all below an element their properties as attributes, in place of classes."""
    for index in reversed(range(len(parent))):
        element = parent[index]
        _style(element)
        classes = element.attrib.pop("class", "").split()
        element.attrib.update(literal(classes, PRINT))
        if element.tag == "text" and "label" in classes:
            around = HALO | {"stroke": PRINT["paper"], "aria-hidden": "true"}
            halo = ElementTree.Element("text", element.attrib | around)
            halo.text = element.text
            parent.insert(index, halo)
