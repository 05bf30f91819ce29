"""Charts of the Apex page as inline SVG: shapes and classes only. The style sheet of the page sets the colours."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import pairwise
from xml.etree.ElementTree import Element, SubElement, tostring

import pygal
from markupsafe import Markup
from pygal.etree import etree
from pygal.style import Style

etree.to_etree()  # pygal takes lxml where that happens to be installed, and its trees are of other classes

SINGLE_WEEK_BAND = 24
"""Half the width of the band of a single week."""
MAX_LABELS = 6
"""Maximum number of labels on the time axis."""


def stacked_shares(title: str, days: Sequence[date], shares: Mapping[str, Sequence[float | None]]) -> Markup:
    """One bar per day that adds up to 100 %, with the series in the given row."""
    chart = _chart(pygal.StackedBar, title, days, spacing=0)
    chart.range = (0, 1)
    chart.y_labels = [0, 0.25, 0.5, 0.75, 1]
    chart.value_formatter = lambda value: f"{100 * value:.0f} %"
    for name, values in shares.items():
        chart.add(name, [{"value": v, "label": name} if v is not None else None for v in values])
    return _svg(chart)


Interval = tuple[float, float, float]
"""Value, low and high: no interval where the three are equal."""


def lines(
    title: str,
    weeks: Sequence[date],
    measured: Sequence[Interval | None],
    beside: Mapping[str, Sequence[float | Interval | None]],
    places: int = 3,
    marks: Sequence[str] = (),
    shown: Callable[[float], str] | None = None,
) -> Markup:
    """A measured line with its intervals, and other lines. Their intervals, if any, are drawn as a band.

    `marks` are classes of the measured dots, empty for none; `shown` formats values, with `places` decimals by default.
    A line without any value keeps its color, so that the same line has the same color in another chart.
    """
    chart = _chart(pygal.Line, title, weeks, dots_size=3)
    known = [v for row in measured if row for v in row]
    others = [v for values in beside.values() for v in values if v is not None]
    known += [n for v in others for n in (v if isinstance(v, tuple) else (v,))]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.01
    chart.range = (low - room, high + room)
    chart.y_labels = _ticks(low - room, high + room)
    places = max(places, *(len(f"{tick:.10f}".rstrip("0").partition(".")[2]) for tick in chart.y_labels))
    shown = shown or (lambda value: f"{value:.{places}f}")
    chart.value_formatter = shown
    classes = [f"dot reactive {mark}" if mark else "" for mark in marks] or [""] * len(weeks)
    points = [row and _point(row, shown) for row in measured]
    chart.add(
        "measured", [p and (p | {"node": {"class": c}} if c else p) for p, c in zip(points, classes, strict=True)]
    )
    for name, values in beside.items():
        created = [None if v is None else _point(v if isinstance(v, tuple) else (v,) * 3, shown, name) for v in values]
        # a band is drawn at its dots; a line of one week has only its dot
        dots = len(weeks) == 1 or any(isinstance(v, tuple) for v in values)
        chart.add(name, created, show_dots=dots, dots_size=1)
    bands = [n for n, values in enumerate(beside.values(), 1) if any(isinstance(v, tuple) for v in values)]
    chart.add_xml_filter(lambda root: _as_bands(root, bands))
    return _svg(chart)


SPARK_WIDTH, SPARK_HEIGHT, SPARK_MARGIN = 120, 28, 3


def sparkline(title: str, values: Sequence[float], floor: float | None, marked: Sequence[bool]) -> Markup:
    """A line without axes, the newest value at its end, with dots at marked values; `floor` is a dashed line."""
    known = [*values, *([] if floor is None else [floor])]
    low, span = min(known), max(known) - min(known) or 1.0
    width, height = SPARK_WIDTH - 2 * SPARK_MARGIN, SPARK_HEIGHT - 2 * SPARK_MARGIN

    def at(place: int, value: float) -> tuple[str, str]:
        x = SPARK_MARGIN + width * place / max(len(values) - 1, 1) if len(values) > 1 else SPARK_WIDTH / 2
        return f"{x:.1f}", f"{SPARK_HEIGHT - SPARK_MARGIN - height * (value - low) / span:.1f}"

    root = Element("svg", {"class": "sparkline", "viewBox": f"0 0 {SPARK_WIDTH} {SPARK_HEIGHT}"})
    root.set("role", "img")
    root.set("aria-label", title)
    SubElement(root, "title").text = title
    if floor is not None:
        y = at(0, floor)[1]
        SubElement(root, "line", {"class": "floor", "x1": "0", "x2": str(SPARK_WIDTH), "y1": y, "y2": y})
    points = [at(place, value) for place, value in enumerate(values)]
    SubElement(root, "polyline", {"points": " ".join(",".join(point) for point in points)})
    for (x, y), is_marked in zip(points, marked, strict=True):
        if is_marked:
            SubElement(root, "circle", {"class": "marked", "cx": x, "cy": y, "r": "2.5"})
    x, y = points[-1]
    if not marked[-1]:
        SubElement(root, "circle", {"cx": x, "cy": y, "r": "2"})
    return Markup(tostring(root, encoding="unicode"))


def _as_bands(root: Element, series: Sequence[int]) -> Element:
    """Draw the intervals of some series as a band instead of bars with ends."""
    for number in series:
        bars = [
            path
            for group in root.iter()
            if f"color-{number}" in group.get("class", "").split()
            for ci in group.iter()
            if ci.get("class") == "ci"
            for path in ci
        ]
        # "top, right end, top, left end, top, bottom …" is how pygal draws a bar
        points = [[float(n) for n in re.findall(r"-?\d+\.?\d*", bar.get("d", ""))] for bar in bars]
        steps = [b[0] - a[0] for a, b in pairwise(points)]
        half = min(steps, default=2 * SINGLE_WEEK_BAND) / 2
        for bar, xy in zip(bars, points, strict=True):
            x, top, bottom = xy[0], xy[1], xy[11]
            bar.set("d", f"M{x - half:.3f} {top} H{x + half:.3f} V{bottom} H{x - half:.3f} Z")
            bar.set("class", "band")
    return root


def _point(row: Interval, shown: Callable[[float], str], name: str = "") -> dict[str, object]:
    value, low, high = row
    interval = "" if low == high else f"interval {shown(low)} to {shown(high)}"
    point: dict[str, object] = {"value": value, "label": ", ".join(text for text in (name, interval) if text)}
    return point if low == high else point | {"ci": {"low": low, "high": high}}


def _chart(kind: type[pygal.Graph], title: str, dates: Sequence[date], **options: object) -> pygal.Graph:
    moments = [f"{day:%m-%d}" for day in dates]
    every = max(1, math.ceil(len(moments) / MAX_LABELS))
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
    """Remove styles, scripts and what needs them. The text of a mark becomes its plain tooltip."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == "defs" or not isinstance(child.tag, str) or "tooltip-overlay" in child.get("class", ""):
                parent.remove(child)
        texts = {c.get("class", "").split()[0]: c.text or "" for c in parent if c.tag == "desc"}
        if "value" in texts:
            for child in [c for c in parent if c.tag == "desc"]:
                parent.remove(child)
            message = SubElement(parent, "title")
            message.text = ", ".join(t for t in (texts.get("x_label"), texts.get("label"), texts["value"]) if t)
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
