"""Charts of the Apex page as inline SVG: shapes and classes only, their colours are those of the page's style sheet."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from xml.etree.ElementTree import Element, SubElement

import pygal
from markupsafe import Markup
from pygal.style import Style

# pygal's finder of maps is of a kind that Python warns of at each later import, and no map is drawn here
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
LABELS = 6
"""At most so many labels on the axis of time."""


def stacked_shares(title: str, days: Sequence[date], shares: Mapping[str, Sequence[float | None]]) -> Markup:
    """Bars that add up to 100 %, one a day; the series in the order given."""
    chart = _chart(pygal.StackedBar, title, days, spacing=0)
    chart.range = (0, 1)
    chart.y_labels = [0, 0.25, 0.5, 0.75, 1]
    chart.value_formatter = lambda value: f"{100 * value:.0f} %"
    for name, values in shares.items():
        chart.add(name, [{"value": v, "label": name} if v is not None else None for v in values])
    return _svg(chart)


def lines(
    title: str,
    weeks: Sequence[date],
    measured: Sequence[tuple[float, float, float] | None],
    beside: Mapping[str, Sequence[float | None]],
    places: int = 3,
) -> Markup:
    """A measured line of (value, low, high) with its intervals, none where the three are equal, and lines beside it."""
    chart = _chart(pygal.Line, title, weeks, dots_size=3)
    known = [v for row in measured if row for v in row]
    known += [v for values in beside.values() for v in values if v is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.01
    chart.range = (low - room, high + room)
    chart.y_labels = _ticks(low - room, high + room)
    places = max(places, *(len(f"{tick:.10f}".rstrip("0").partition(".")[2]) for tick in chart.y_labels))
    chart.value_formatter = lambda value: f"{value:.{places}f}"
    chart.add(
        "measured",
        [row and _point(row, places) for row in measured],
    )
    for name, values in beside.items():
        chart.add(name, [{"value": v, "label": name} if v is not None else None for v in values], show_dots=False)
    return _svg(chart)


def _point(row: tuple[float, float, float], places: int) -> dict[str, object]:
    value, low, high = row
    if low == high:
        return {"value": value}
    return {
        "value": value,
        "ci": {"low": low, "high": high},
        "label": f"interval {low:.{places}f} to {high:.{places}f}",
    }


def _chart(kind: type[pygal.Graph], title: str, dates: Sequence[date], **options: object) -> pygal.Graph:
    moments = [f"{day:%m-%d}" for day in dates]
    every = max(1, math.ceil(len(moments) / LABELS))
    chart = kind(
        width=560,
        height=220,
        title=None,
        js=[],
        show_legend=False,
        style=Style(label_font_size=15, major_label_font_size=15),
        margin_top=8,
        margin_left=8,
        margin_right=24,
        margin_bottom=4,
        show_minor_x_labels=False,
        truncate_label=-1,
        disable_xml_declaration=True,
        **options,
    )
    chart.x_labels = moments
    chart.x_labels_major = moments[::-1][::every]
    chart.add_xml_filter(lambda root: _bare(root, title))
    return chart


def _svg(chart: pygal.Graph) -> Markup:
    # pygal writes it by ElementTree, which escapes every text
    return Markup(chart.render(is_unicode=True))


def _bare(root: Element, title: str) -> Element:
    """Take out styles, scripts and what needs them; what a mark tells becomes its plain tooltip."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == "defs" or not isinstance(child.tag, str) or "tooltip-overlay" in child.get("class", ""):
                parent.remove(child)
        texts = {c.get("class", "").split()[0]: c.text or "" for c in parent if c.tag == "desc"}
        if "value" in texts:
            for child in [c for c in parent if c.tag == "desc"]:
                parent.remove(child)
            told = SubElement(parent, "title")
            told.text = ", ".join(t for t in (texts.get("x_label"), texts.get("label"), texts["value"]) if t)
    for child in list(root):
        if child.tag == "title":
            child.text = title
    root.set("role", "img")
    root.set("aria-label", title)
    root.attrib.pop("id", None)
    return root


def _ticks(low: float, high: float) -> list[float]:
    """About five round values between two.

    >>> _ticks(0.871, 0.949)
    [0.88, 0.9, 0.92, 0.94]
    """
    span = high - low
    step = 10 ** math.floor(math.log10(span))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if span / s <= 6)
    first = math.ceil(low / step)
    return [round(step * n, 10) for n in range(first, math.floor(high / step) + 1)]
