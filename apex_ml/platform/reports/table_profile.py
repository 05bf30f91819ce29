"""The description of a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apex_ml.adapters.pages.profile_page import gain_text, label, share_text, size_text
from apex_ml.core.table_profile.bins import number_text, time_text
from apex_ml.core.table_profile.values import ColumnProfile, TableProfile
from apex_ml.text import visible
from apex_ml.wording import counted

MAX_FINDINGS = 40
NAME_LENGTH, VALUES_LENGTH = 24, 60
WIDE = 100
"""Width of a terminal from which names have their full length."""
MIN_VALUES = 12
PADDING = 2
"""Blanks between two columns."""


def show_profile(profile: TableProfile, console: Console) -> None:
    """Show size, columns, target, keys and findings."""
    source = profile.source
    console.print(
        Text(
            f"{label(source.name, 80)}: {counted(profile.rows, 'row')}, {counted(len(profile.columns), 'column')} in"
            f" {counted(source.files, 'file')} ({size_text(source.bytes)})"
        )
    )
    console.print(_columns(profile, console.width))
    if profile.target is not None:
        classes = ", ".join(f"{label(c.value, 24)} {c.rows:,}" for c in profile.target.classes[:10])
        more = " …" if len(profile.target.classes) > 10 else ""
        console.print(Text(f"Target {visible(profile.target.name)}: {classes}{more}"))
    for line in _about_rows(profile):
        console.print(Text(line))
    _findings(profile, console)


def _columns(profile: TableProfile, width: int) -> Table:
    """One line for each column; the text of its values takes the space that is left."""
    gains = {a.name: gain_text(a.gain) for a in profile.target.associations} if profile.target else {}
    drifts = {d.name: f"{d.stability:.3f}" for d in profile.time.drifts} if profile.time else {}
    headings = ["column", "type", "null", "different", *(["gain"] if gains else []), *(["change"] if drifts else [])]
    longest = NAME_LENGTH if width >= WIDE else NAME_LENGTH * 2 // 3
    rows = []
    for column in profile.columns:
        cells = [label(column.name, longest), label(column.stored, longest // 2), share_text(column.null_share)]
        cells.append(f"{column.distinct:,}")
        cells += [gains.get(column.name, "")] if gains else []
        cells += [drifts.get(column.name, "")] if drifts else []
        rows.append(cells)
    fixed = sum(max(map(cell_len, cells)) + PADDING for cells in zip(headings, *rows, strict=True))
    left = max(width - fixed - PADDING, MIN_VALUES)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("column", "type") else "right")
    table.add_column("values", no_wrap=True)
    for column, cells in zip(profile.columns, rows, strict=True):
        table.add_row(*map(Text, cells), Text(label(values_text(column) or "-", left)))
    return table


def values_text(column: ColumnProfile) -> str:
    """The values of a column in a few words: range, or most frequent values."""
    if column.numbers is not None:
        low, high, mean = column.numbers.low, column.numbers.high, column.numbers.mean
        return f"{number_text(low)} to {number_text(high)}, mean {number_text(mean)}"
    if column.times is not None:
        return f"{time_text(column.times.first)} to {time_text(column.times.last)}"
    shown = ""
    for level in column.levels:
        part = f"{label(level.value, 20)} {share_text(level.rows / column.rows)}"
        if len(shown) + len(part) > VALUES_LENGTH:
            return f"{shown}, …"
        shown += f", {part}" if shown else part
    return shown


def _about_rows(profile: TableProfile) -> Iterator[str]:
    if profile.keys:
        keys = ", ".join(" + ".join(map(label, key)) for key in profile.keys[:5])
        yield f"A row is identified by: {keys}"
    if profile.time is not None:
        yield f"Time: {visible(profile.time.name)}, by {profile.time.unit}: {len(profile.time.periods)} with rows"


def _findings(profile: TableProfile, console: Console) -> None:
    if not profile.findings:
        return
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    for finding in profile.findings[:MAX_FINDINGS]:
        style = "bold" if finding.severity == "warning" else ""
        name = "" if finding.column is None else label(finding.column, NAME_LENGTH)
        table.add_row(Text(name, style), Text(finding.text, style))
    console.print(table)
    if (more := len(profile.findings) - MAX_FINDINGS) > 0:
        console.print(Text(f"{counted(more, 'more finding')} on the page"))
