# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw demand against limits and cores as SVG for the report's page, with matplotlib.

The page forbids style attributes and has a light and a dark face, so the SVG is rewritten: colours become classes
(`fill-used`, `stroke-limit`, ...) that the page's style sheet fills in, all other styles become plain attributes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from ansible_collections.evenkeel.swarm.plugins.module_utils._words import demand_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for a role; which colour the role has is the style sheet's matter.
_ROLES = ("ink", "muted", "grid", "used", "demand", "edge", "limit", "cores")
_INK, _MUTED, _GRID, _USED, _DEMAND, _EDGE, _LIMIT, _CORES = (f"#0000{number:02x}" for number in range(1, 9))
_ROLE_OF = dict(zip((_INK, _MUTED, _GRID, _USED, _DEMAND, _EDGE, _LIMIT, _CORES), _ROLES, strict=True))
_PAINTS = ("fill", "stroke")
# The page's fonts win; the line ends are matplotlib's own style sheet, written out.
_DROPPED = ("font-family",)

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")

# All lengths are pixels at 100 %.
_PIXELS = 72
_FONT = 12
# An axis ends here at the least, in cores: idle services shall look idle.
_SHORTEST = 0.1
# Room for a demand without an upper end.
_BEYOND = 1.15
# A letter of the page's widest likely font, on average.
_LETTER = 7.2


class ChartsMissingError(ImportError):
    """The library that draws is not installed; the message names it."""


class Layout(NamedTuple):
    """A chart's width, the room left and right of the bars, the height of a row, names beside the bars or above."""

    width: int
    left: int
    right: int
    row: int
    names_above: bool


def wide(names: Iterable[str]) -> Layout:
    """Return the layout for screens and paper, with room for the longest of the names."""
    longest = max(map(len, names), default=0)
    return Layout(1080, min(360, 20 + round(longest * _LETTER)), 110, 26, names_above=False)


def narrow() -> Layout:
    """Return the layout for phones."""
    return Layout(330, 14, 92, 46, names_above=True)


class Caption(NamedTuple):
    """What sets a chart apart: an id for the page, and what it says to those who don't see it."""

    ident: str
    title: str
    description: str


class Bar(NamedTuple):
    """One row of a chart, cores: what was used, the demand (as throttling_info returns it), a limit or None."""

    name: str
    used: float | None
    demand: Any
    limit: float | None

    @property
    def wanted(self) -> float:
        """The most it may want, as far as that is known."""
        demand = self.demand or {}
        values = (self.used, demand.get("upper"), demand.get("lower"), demand.get("estimate"))
        return max((value for value in values if value is not None), default=0.0)

    @property
    def open_ended(self) -> bool:
        """Whether nothing is known about how much more than `lower` it wants."""
        demand = self.demand or {}
        return demand.get("lower") is not None and demand.get("upper") is None and demand.get("estimate") is None

    @property
    def reach(self) -> float:
        """The largest number that is drawn."""
        return max(self.wanted, self.limit or 0.0)


def draw(bars: Sequence[Bar], cores: float | None, layout: Layout, caption: Caption) -> str:
    """Draw bars, the first on top, and a line at the node's cores; return an <svg> element for a page.

    Raises ChartsMissingError without matplotlib.
    """
    figure, axes = _canvas(len(bars), layout)
    top = max(_SHORTEST, cores or 0.0, *(bar.reach for bar in bars))
    if any(bar.open_ended for bar in bars):
        top *= _BEYOND
    axes.set_xlim(0, top * 1.02)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    for row, bar in enumerate(bars):
        _draw_bar(axes, row, bar, top, layout)
    if cores is not None:
        axes.axvline(cores, color=_CORES, linewidth=1.5, linestyle=(0, (5, 3)), zorder=1)
    _dress(axes, bars, layout)
    return _plain_svg(figure, caption)


def _canvas(rows: int, layout: Layout) -> tuple[Figure, Axes]:
    try:
        # Only here: a run that draws nothing must not pay for the import.
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ChartsMissingError(
            "the page's charts need the Python package matplotlib on the controller: "
            "install it (pip install matplotlib), or leave the page out with report_html: false"
        ) from error
    below = 24
    height = rows * layout.row + below
    figure = Figure(figsize=(layout.width / _PIXELS, height / _PIXELS), dpi=_PIXELS)
    inner = layout.width - layout.left - layout.right
    axes = figure.add_axes(
        (layout.left / layout.width, below / height, inner / layout.width, rows * layout.row / height)
    )
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _draw_bar(axes: Axes, row: int, bar: Bar, top: float, layout: Layout) -> None:
    demand = bar.demand or {}
    lower, upper, estimate = (demand.get(key) for key in ("lower", "upper", "estimate"))
    # Names above take the upper part of a row.
    middle, height = (row + 0.16, 0.4) if layout.names_above else (row, 0.6)
    if lower is not None:
        end = estimate if estimate is not None else top if upper is None else upper
        axes.barh(
            middle,
            end - lower,
            left=lower,
            height=height,
            color=_DEMAND,
            edgecolor=_EDGE,
            linewidth=1,
            linestyle="-" if estimate is not None else (0, (3, 2)),
            zorder=2,
        )
    if bar.used is not None:
        axes.barh(middle, bar.used, height=height * 0.5, color=_USED, zorder=3)
    if bar.limit is not None:
        axes.plot(
            [bar.limit] * 2, [middle - height * 0.62, middle + height * 0.62], color=_LIMIT, linewidth=3, zorder=4
        )
    measured = lower is not None
    axes.text(
        1.01,
        middle,
        demand_text(demand) if measured else "not measured",
        transform=axes.get_yaxis_transform(),
        va="center",
        color=_INK if measured else _MUTED,
        fontsize=_FONT,
        fontstyle="normal" if measured else "italic",
    )


def _dress(axes: Axes, bars: Sequence[Bar], layout: Layout) -> None:
    """Write names and axis, take the frame away."""
    for row, bar in enumerate(bars):
        x, y, align = (0.0, row - 0.3, "left") if layout.names_above else (-0.015, row, "right")
        # Names are data: no mathematics in them.
        axes.text(
            x,
            y,
            bar.name,
            transform=axes.get_yaxis_transform(),
            ha=align,
            va="center",
            color=_INK,
            fontsize=_FONT,
            parse_math=False,
        )
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=5 if layout.names_above else 10)
    axes.tick_params(axis="x", length=0, labelsize=_FONT, labelcolor=_MUTED, pad=6)
    axes.grid(axis="x", color=_GRID, linewidth=1, zorder=0)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.spines["left"].set(visible=True, color=_MUTED)


def _plain_svg(figure: Figure, caption: Caption) -> str:
    """Return a figure as an <svg> element without styles, foreign ids or anything that a page would load."""
    from matplotlib import rc_context  # noqa: PLC0415

    target = io.BytesIO()
    # Text stays text, and the same numbers give the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": caption.ident}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(target.getvalue())  # noqa: S314 - written two lines above
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    kept = _referenced(root)
    for element in root.iter():
        _make_plain(element, caption.ident, kept)
    box = root.attrib["viewBox"].split()
    root.attrib |= {"class": "chart", "width": box[2], "height": box[3]}
    _describe(root, caption)
    return ElementTree.tostring(root, encoding="unicode")


def _describe(root: ElementTree.Element, caption: Caption) -> None:
    """Make it one picture with a text, for screen readers."""
    names = {tag: f"{caption.ident}-{tag}" for tag in ("title", "desc")}
    root.attrib |= {"role": "img", "aria-labelledby": names["title"], "aria-describedby": names["desc"]}
    for number, (tag, text) in enumerate((("title", caption.title), ("desc", caption.description))):
        element = ElementTree.Element(tag, {"id": names[tag]})
        element.text = text
        root.insert(number, element)


def _referenced(root: ElementTree.Element) -> set[str]:
    kept = set()
    for element in root.iter():
        kept.update(_REFERENCE.findall(" ".join(element.attrib.values())))
        kept.add(element.attrib.get(_HREF, "").removeprefix("#"))
    return kept


def _make_plain(element: ElementTree.Element, ident: str, kept: set[str]) -> None:
    element.tag = element.tag.removeprefix(_SVG)
    styles = (each.partition(":") for each in element.attrib.pop("style", "").split(";") if each.strip())
    classes = []
    for name, _, value in ((name.strip(), sign, value.strip()) for name, sign, value in styles):
        if name in _PAINTS and value in _ROLE_OF:
            classes.append(f"{name}-{_ROLE_OF[value]}")
        elif name not in _DROPPED:
            element.set(name, value)
    if classes:
        element.set("class", " ".join(classes))
    if _HREF in element.attrib:
        element.set("href", f"#{ident}-{element.attrib.pop(_HREF).removeprefix('#')}")
    for name, value in element.attrib.items():
        element.set(name, _REFERENCE.sub(rf"url(#{ident}-\1)", value))
    old = element.attrib.pop("id", None)
    if old in kept:
        element.set("id", f"{ident}-{old}")
