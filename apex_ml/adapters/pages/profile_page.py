"""The description of a table as one HTML file: without scripts, without anything that a browser would have to load."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.core.table_profile.bins import number_text, time_text
from apex_ml.core.table_profile.drift import LARGE, VISIBLE
from apex_ml.core.table_profile.values import MEDIAN, Q05, Q95, Association, ColumnProfile, TableProfile, TimeProfile
from apex_ml.text import visible

MAX_CHARTS = 12
"""Columns whose change over time is drawn."""
MAX_COLORS = 8
LABEL_LENGTH = 40


def write_profile_page(profile: TableProfile, path: Path) -> None:
    """Write the page; names and values of the data are escaped."""
    write_atomically(path, profile_page(profile).encode())


def profile_page(profile: TableProfile) -> str:
    """The page as HTML."""
    pages = Environment(autoescape=True, loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True)
    pages.filters |= {"label": label, "share": share_text, "gain": gain_text, "number": number_text}
    pages.filters |= {"moment": time_text, "size": size_text}
    associations = {a.name: a for a in profile.target.associations} if profile.target else {}
    drifts = {d.name: d for d in profile.time.drifts} if profile.time else {}
    return pages.get_template("profile_page.html.j2").render(
        p=profile,
        associations=associations,
        drifts=drifts,
        facts={column.name: facts(column) for column in profile.columns},
        notes={c.name: [f for f in profile.findings if f.column == c.name] for c in profile.columns},
        classes=[label(level.value) for level in profile.target.classes] if profile.target else [],
        class_shares=_strips(profile, associations),
        drawn=_drawn(profile.time) if profile.time else [],
        period=period_text,
        visible_limit=VISIBLE,
        large_limit=LARGE,
    )


def _strips(profile: TableProfile, associations: Mapping[str, Association]) -> dict[str, dict[str, list[float]]]:
    """By column and bin the shares of the classes; none where there are more classes than colors."""
    if profile.target is None or len(profile.target.classes) > MAX_COLORS:
        return {}
    return {name: class_shares(association) for name, association in associations.items()}


def _drawn(time: TimeProfile) -> list[str]:
    """Columns that changed most, whose change is drawn."""
    return [drift.name for drift in time.drifts if drift.stability >= VISIBLE / 10][:MAX_CHARTS]


def label(text: str, longest: int = LABEL_LENGTH) -> str:
    """A name or value in one short line, with what cannot be seen.

    >>> label(""), label("a" * 50, 5), label("EC")
    ('(blank)', 'aaaa…', 'EC')
    """
    shown = visible(text)
    if not shown.strip():
        return "(blank)"
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def share_text(share: float) -> str:
    """A share in percent.

    >>> share_text(0.5), share_text(0.00012), share_text(0.0), share_text(1.0), share_text(0.9996)
    ('50 %', '0.012 %', '0 %', '100 %', '99.96 %')
    """
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:.0f} %"
    small = min(percent, 100 - percent)
    return f"{percent:.3g} %" if small >= 1 or percent < 1 else f"{percent:.2f} %"


def gain_text(gain: float) -> str:
    """A gain in percent. Below 0, the table only learned by heart what does not repeat.

    >>> gain_text(0.0446), gain_text(-0.0017)
    ('4.46 %', '0 %')
    """
    return f"{100 * gain:.2f} %" if gain >= 0.00005 else "0 %"


def size_text(size: int) -> str:
    """A size of files.

    >>> size_text(2_000), size_text(19_960_000)
    ('2.0 kB', '20.0 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def period_text(start: datetime, unit: str) -> str:
    """A period by its start."""
    forms = {"hour": "%Y-%m-%d %H:00", "month": "%Y-%m", "year": "%Y"}
    if unit == "quarter":
        return f"{start.year} Q{(start.month + 2) // 3}"
    return start.strftime(forms.get(unit, "%Y-%m-%d"))


def class_shares(association: Association) -> dict[str, list[float]]:
    """By bin the share of each class."""
    return {name: [count / max(sum(counts), 1) for count in counts] for name, counts in association.shares}


def facts(column: ColumnProfile) -> list[tuple[str, Any]]:
    """The numbers of a column, each with its name."""
    rows: list[tuple[str, Any]] = [("different values", f"{column.distinct:,}")]
    if column.nulls:
        rows.append(("null", f"{column.nulls:,} ({share_text(column.null_share)})"))
    if (n := column.numbers) is not None:
        rows += [("smallest", number_text(n.low)), ("largest", number_text(n.high)), ("mean", number_text(n.mean))]
        rows += [("median", number_text(n.quantiles[MEDIAN])), ("deviation", number_text(n.deviation))]
        rows.append(("90 % are in", f"{number_text(n.quantiles[Q05])} to {number_text(n.quantiles[Q95])}"))
        rows += [(name, f"{count:,}") for name, count in (("zero", n.zeros), ("negative", n.negative)) if count]
    if (t := column.times) is not None:
        rows += [("earliest", time_text(t.first)), ("latest", time_text(t.last)), ("days with rows", f"{t.days:,}")]
    if (text := column.text) is not None:
        lengths = f"{text.shortest:,}" if text.shortest == text.longest else f"{text.shortest:,} to {text.longest:,}"
        rows.append(("characters", lengths))
    return rows
