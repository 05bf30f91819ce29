"""The description of a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apex_ml.adapters.pages.profile_page import gain_text, label, share_text, size_text
from apex_ml.core.table_profile.bins import number_text, time_text
from apex_ml.core.table_profile.values import ColumnProfile, TableProfile
from apex_ml.text import visible
from apex_ml.wording import counted

MAX_FINDINGS = 40
NAME_LENGTH, VALUES_LENGTH = 32, 60


def show_profile(profile: TableProfile, console: Console) -> None:
    """Show size, columns, target, keys and findings."""
    source = profile.source
    console.print(
        Text(
            f"{label(source.name, 80)}: {counted(profile.rows, 'row')}, {counted(len(profile.columns), 'column')} in"
            f" {counted(source.files, 'file')} ({size_text(source.bytes)})"
        )
    )
    console.print(_columns(profile))
    if profile.target is not None:
        classes = ", ".join(f"{label(c.value, 24)} {c.rows:,}" for c in profile.target.classes[:10])
        more = " …" if len(profile.target.classes) > 10 else ""
        console.print(Text(f"Target {visible(profile.target.name)}: {classes}{more}"))
    for line in _about_rows(profile):
        console.print(Text(line))
    _findings(profile, console)


def _columns(profile: TableProfile) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("column", overflow="fold")
    table.add_column("type", no_wrap=True)
    for name in ("null", "different"):
        table.add_column(name, justify="right")
    table.add_column("values", no_wrap=True, ratio=1)
    gains = {a.name: a.gain for a in profile.target.associations} if profile.target else {}
    drifts = {d.name: d.stability for d in profile.time.drifts} if profile.time else {}
    if gains:
        table.add_column("gain", justify="right")
    if drifts:
        table.add_column("change", justify="right")
    for column in profile.columns:
        cells = [label(column.name, NAME_LENGTH), label(column.stored, 16), share_text(column.null_share)]
        cells += [f"{column.distinct:,}", values_text(column)]
        if gains:
            cells.append(gain_text(gains[column.name]) if column.name in gains else "")
        if drifts:
            cells.append(f"{drifts[column.name]:.3f}" if column.name in drifts else "")
        table.add_row(*map(Text, cells))
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
        keys = ", ".join(" + ".join(map(visible, key)) for key in profile.keys[:5])
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
