"""The result of a check of data in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apex_ml.adapters.duckdb.file_report import FileReport, repr_visible
from apex_ml.services.data_check import DataCheck
from apex_ml.text import visible
from apex_ml.wording import counted

MAX_SHOWN = 30
MAX_EXAMPLES = 3


def show_check(check: DataCheck, console: Console) -> None:
    """Show counts, the broken rules with examples, the columns that differ, and the classes."""
    console.print(Text(row_counts(check)))
    if rules := rule_rows(check):
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("rows are", "column: rule", "examples"):
            table.add_column(name, overflow="fold")
        table.add_column("rows", justify="right")
        for row in rules:
            table.add_row(*map(Text, row))
        console.print(table)
    for bad in check.examples[:MAX_SHOWN]:
        place = f"{'Line' if bad.is_line else 'Row'} {bad.row_nr:,} of {visible(bad.file)}"
        console.print(Text(f"{place}: {'; '.join(map(visible, bad.rules))}"))
    for line in column_lines(check):
        console.print(Text(line))
    if check.rows:
        classes = ", ".join(f"{visible(name)} {n:,}" for name, n in check.classes.items())
        console.print(Text(f"Accepted rows by class: {classes}"))
    for name, why in list(check.left_out.items())[:MAX_SHOWN]:
        console.print(Text(f"Not read: {visible(name)}: {why}"))


def row_counts(check: DataCheck) -> str:
    """Number of rows and files, and of accepted and quarantined rows."""
    return (
        f"{counted(check.rows, 'row')} in {counted(len(check.reports), 'file')}: {check.rows - check.quarantined:,}"
        f" accepted, {check.quarantined:,} quarantined ({check.quarantined_share:.2%}; the limit for {check.use} is"
        f" {check.limit:.0%})"
    )


def rule_rows(check: DataCheck) -> list[tuple[str, str, str, str]]:
    """A row for each broken rule: what happens to the rows, column and rule, examples, and the number of rows."""
    return [
        *_rules(check, "quarantined", lambda report: report.reasons),
        *_rules(check, "warned", lambda report: report.warnings),
        *_rules(check, "changed", lambda report: report.normalised),
    ]


def _rules(
    check: DataCheck, effect: str, counts: Callable[[FileReport], Mapping[str, int]]
) -> list[tuple[str, str, str, str]]:
    rows: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for report in check.reports:
        rows.update(counts(report))
        for label in counts(report):
            known = examples.setdefault(label, [])
            known += [value for value in report.examples.get(label, ()) if value not in known]
    return [
        (effect, visible(label), ", ".join(map(repr_visible, examples[label][:MAX_EXAMPLES])), f"{n:,}")
        for label, n in rows.most_common(MAX_SHOWN)
    ]


def column_lines(check: DataCheck) -> list[str]:
    """Lines about columns that files lack, that the contract does not name, and that are cast."""
    filled = Counter(name for report in check.reports for name in report.filled)
    added = Counter(name for report in check.reports for name in report.added)
    cast = Counter(kinds for report in check.reports for kinds in report.cast)
    lines = [
        f"Missing, filled with nulls: {visible(name)} (in {counted(n, 'file')})"
        for name, n in filled.most_common(MAX_SHOWN)
    ]
    if added:
        names = ", ".join(map(visible, sorted(added)[:MAX_SHOWN]))
        lines.append(f"Not in the contract, ignored: {names}{' …' if len(added) > MAX_SHOWN else ''}")
    lines += [
        f"Cast: {visible(name)} from {stored} to {kind} (in {counted(n, 'file')})"
        for (name, stored, kind), n in cast.most_common(MAX_SHOWN)
    ]
    return lines
