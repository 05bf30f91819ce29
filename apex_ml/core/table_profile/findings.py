"""What a person should look at in a table: leaks, identifiers, nulls, repeats, odd texts, dates and names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from apex_ml.contract.file_format import FileFormat
from apex_ml.core.csv_format import looks_like_value
from apex_ml.core.table_profile.bins import number_text, time_text
from apex_ml.core.table_profile.drift import LARGE
from apex_ml.core.table_profile.epochs import epoch_note
from apex_ml.core.table_profile.values import (
    KEY_SHARE,
    Q99,
    ColumnProfile,
    Finding,
    Source,
    TableProfile,
    TargetProfile,
)
from apex_ml.text import shortened_line, visible
from apex_ml.wording import counted

LEAK_GAIN = 0.5
"""Share of the class shares' log loss from which one column alone is suspicious, as features.suspicious_gain has it."""
ABSENT_SHARE = 0.9
"""Share of the rows without a target that lack a column as well, from which both may be known at the same time."""
MIN_ABSENT = 20
OTHER_NULLS = 0.1
MANY_NULLS = 0.5
SMALL_CLASS = 0.01
MIN_IDENTIFIERS = 50
"""Different values that the name of a thing has at least."""
FAR_DAYS = 366
MAX_ODD_TEXT = 40
MAX_DRIFTS = 10
"""Changes over time that are findings; the page shows all."""
_NAMED_ID = re.compile(
    r"(?i:(?:^|[_\W])(?:id|key|uuid|guid|nr|no|num|number|code))$|(?<=[a-z])(?:Id|ID|Key|Nr)$",
)


def is_named_as_identifier(name: str) -> bool:
    """Whether a name says that its values name things.

    >>> [is_named_as_identifier(name) for name in ("patient_id", "tripNr", "zip code", "paid", "monkey")]
    [True, True, True, False, False]
    """
    return bool(_NAMED_ID.search(name))


def looks_like_identifier(column: ColumnProfile) -> bool:
    """Whether values are names of things: nearly all differ, or there are many and the column's name says so."""
    if column.kind not in ("text", "integer") or column.distinct < MIN_IDENTIFIERS or not column.known:
        return False
    if column.kind == "text" and column.text is not None and column.text.longest > 64:
        return False
    if column.distinct >= KEY_SHARE * column.known:
        return column.kind == "text" or is_named_as_identifier(column.name) or _is_counter(column)
    return is_named_as_identifier(column.name) or (column.kind == "text" and _have_digits(column))


def _is_counter(column: ColumnProfile) -> bool:
    """Whether whole numbers are all different and close together."""
    numbers = column.numbers
    return column.is_unique and numbers is not None and numbers.high - numbers.low < 2 * column.rows


def _have_digits(column: ColumnProfile) -> bool:
    texts = [level.value for level in column.levels]
    return bool(texts) and all(re.search("[0-9]", text) and re.search("[A-Za-z]", text) for text in texts)


def absent_together(without_target: Mapping[int, int], other_nulls: int) -> float:
    """Share of the rows without a target that lack a column as well, by rows of each bin (-1: null).

    0 when there are few such rows, or when the column is also null in many rows with a target.

    >>> absent_together({-1: 90, 0: 10}, 1), absent_together({-1: 90, 0: 10}, 50), absent_together({-1: 9}, 0)
    (0.9, 0.0, 0.0)
    """
    rows, both = sum(without_target.values()), without_target.get(-1, 0)
    return both / rows if rows >= MIN_ABSENT and other_nulls <= OTHER_NULLS * both else 0.0


def find_problems(profile: TableProfile) -> Iterator[Finding]:
    """The findings, warnings first."""
    findings = [*_of_table(profile), *_of_target(profile)]
    for column in profile.columns:
        findings += _of_column(column, profile)
    findings += _of_drift(profile)
    yield from sorted(findings, key=lambda finding: finding.severity != "warning")


def _of_table(profile: TableProfile) -> Iterator[Finding]:
    source = profile.source
    if not profile.rows:
        yield Finding("warning", None, "the table has no rows")
    if profile.repeated_rows:
        share = profile.repeated_rows / profile.rows
        yield Finding(
            "warning" if share > 0.001 else "note",
            None,
            f"{counted(profile.repeated_rows, 'row')} ({share:.2%}) repeat another one in all columns",
        )
    for name, types in source.mixed.items():
        yield Finding("warning", name, f"its type differs by file: {', '.join(types)}")
    for name, files in source.partial.items():
        yield Finding("warning", name, f"is missing in {counted(files, 'file')} of {source.files:,}")
    for name in source.folders:
        yield Finding("note", name, "is in the names of folders, and not in the files")
    yield from _of_csv(source)
    if source.left_out:
        some = "; ".join(f"{visible(name)}: {why}" for name, why in list(source.left_out.items())[:3])
        yield Finding("note", None, f"{counted(len(source.left_out), 'file')} in the folder are not read: {some}")
    folded: dict[str, str] = {}
    for column in profile.columns:
        if (other := folded.setdefault(column.name.lower(), column.name)) != column.name:
            yield Finding("warning", column.name, f"differs from the column {other} by case alone: rename one")
        if column.name != column.name.strip() or visible(column.name) != column.name or not column.name.strip():
            yield Finding("warning", column.name, "its name has characters that cannot be seen: rename it")


def _of_csv(source: Source) -> Iterator[Finding]:
    values = [name for name, _ in source.columns if looks_like_value(name)]
    if source.csv is not None and source.csv.format == "csv" and 2 * len(values) > len(source.columns):
        some = ", ".join(map(visible, values[:3]))
        yield Finding(
            "warning",
            None,
            f"the names of the columns look like values ({some}): if the files have no row of names, add one",
        )
    for rule, lines in source.bad_lines.items():
        yield Finding("warning", None, f"{counted(lines, 'line')} cannot be parsed: {rule}")
    for note in source.csv_notes:
        yield Finding("warning", None, note)


def _of_target(profile: TableProfile) -> Iterator[Finding]:
    target = profile.target
    if target is None:
        return
    column = profile.column(target.name)
    if column.is_unique:
        yield Finding("warning", target.name, "the target is different in every row: nothing can be learnt about it")
    elif len(target.classes) < 2:
        yield Finding("warning", target.name, "the target has a single value: there is nothing to predict")
    if column.nulls:
        yield Finding(
            "warning", target.name, f"the target is null in {counted(column.nulls, 'row')} ({column.null_share:.1%})"
        )
    if target.are_ranges:
        yield Finding("note", target.name, "the target is a number with many values; this page compares ranges of it")
    if target.others:
        yield Finding("warning", target.name, f"the target has {column.distinct:,} classes: too many for one model")
    if small := [c for c in target.classes if column.known and c.rows < SMALL_CLASS * column.known]:
        names = ", ".join(f"{visible(c.value)} ({c.rows:,})" for c in small[:5])
        yield Finding("note", target.name, f"classes with less than {SMALL_CLASS:.0%} of the rows: {names}")
    yield from _leaks(target)


def _leaks(target: TargetProfile) -> Iterator[Finding]:
    for association in target.associations:
        if association.gain >= LEAK_GAIN:
            yield Finding(
                "warning",
                association.name,
                f"alone removes {association.gain:.0%} of the log loss of the class shares: it may be known only after"
                f" {visible(target.name)}. If so, it is a measure and no feature",
            )
        elif association.absent_with_target >= ABSENT_SHARE:
            yield Finding(
                "warning",
                association.name,
                f"is null in {association.absent_with_target:.0%} of the rows without {visible(target.name)}, and"
                " hardly in others: it may be known only after it. If so, it is a measure and no feature",
            )


def _of_column(column: ColumnProfile, profile: TableProfile) -> Iterator[Finding]:
    if not profile.rows:
        return
    if not column.known:
        yield Finding("warning", column.name, "has no value at all")
        return
    if column.distinct == 1 and profile.rows > 1:
        text = "has one value" if not column.nulls else "has one value or null"
        yield Finding("note", column.name, text)
    if column.null_share >= MANY_NULLS:
        yield Finding("note", column.name, f"is null in {column.null_share:.0%} of the rows")
    if column.name in profile.identifiers:
        what = "a different value in every row" if column.is_unique else f"{column.distinct:,} different values"
        yield Finding("note", column.name, f"looks like an identifier: {what}")
    if column.kind == "other":
        yield Finding("note", column.name, f"holds {column.stored}, which no model of Apex reads")
    if (odd := odd_note(column, profile.source.csv)) is not None:
        yield Finding("warning", column.name, odd)
    yield from _of_numbers(column)
    if (note := epoch_note(column)) is not None:
        yield Finding("note", column.name, note)
    yield from _of_text(column)
    yield from _of_times(column)


def odd_note(column: ColumnProfile, form: FileFormat | None) -> str | None:
    """The texts among the numbers of a CSV column, what happens to them, and the remedies; None without any."""
    if column.odd is None or form is None:
        return None
    some = ", ".join(shortened_line(visible(text), MAX_ODD_TEXT) for text in column.odd.examples)
    rows = f"{counted(column.odd.rows, 'row')} with another text than a number, such as {some}"
    if column.kind == "text":
        advice = "it stays text. To read it as a number, correct these values, or list their words in files.nulls"
    else:
        advice = "such rows are quarantined. Correct these values, or list a word for null in files.nulls"
    if any(re.search("[0-9][.,][0-9]", text) for text in column.odd.examples):
        advice += f"; the decimal sign is {form.decimal!r} (files.decimal), and separators of thousands are not read"
    return f"{rows}: {advice}"


def _of_numbers(column: ColumnProfile) -> Iterator[Finding]:
    numbers = column.numbers
    if numbers is None:
        return
    if numbers.not_finite:
        yield Finding("warning", column.name, f"NaN or infinite in {counted(numbers.not_finite, 'row')}")
    span = numbers.quantiles[Q99] - numbers.quantiles[0]
    far = [end for end in (numbers.low, numbers.high) if span and abs(end - numbers.quantiles[Q99]) > 20 * span]
    if far and column.distinct > MIN_IDENTIFIERS:
        yield Finding("note", column.name, f"has values far from the others, such as {number_text(far[0])}")


def _of_text(column: ColumnProfile) -> Iterator[Finding]:
    text = column.text
    if column.formats:
        formats = " and ".join(column.formats)
        yield Finding("note", column.name, f"holds dates as text ({formats})")
    if text is None:
        return
    if text.blank:
        yield Finding("note", column.name, f"is blank in {counted(text.blank, 'row')}, which are not null")
    if column.distinct > text.folded:
        more = column.distinct - text.folded
        yield Finding("warning", column.name, f"{counted(more, 'value')} equal to another but for case or blanks")
    if text.numbers == column.known:
        yield Finding("note", column.name, "holds numbers as text")


def _of_times(column: ColumnProfile) -> Iterator[Finding]:
    times = column.times
    if times is None:
        return
    if times.not_finite:
        yield Finding("warning", column.name, f"has infinite dates in {counted(times.not_finite, 'row')}")
    if times.unreadable:
        yield Finding(
            "warning",
            column.name,
            f"{counted(times.unreadable, 'text')} in no format of a date, which count as null: where the column is the"
            " time of a row, such rows are quarantined",
        )
    if times.nanoseconds:
        yield Finding(
            "warning",
            column.name,
            f"has nanoseconds in {counted(times.nanoseconds, 'row')}, and a timestamp of Apex has microseconds: the"
            " normalise step microsecond_of_timestamp leaves them out; without it such rows are quarantined",
        )
    for end, is_far in ((times.first, times.far_first), (times.last, times.far_last)):
        if is_far:
            yield Finding("warning", column.name, f"has a date far from the others: {time_text(end)}")


def _of_drift(profile: TableProfile) -> Iterator[Finding]:
    drifts = profile.time.drifts if profile.time else ()
    # identifiers and dates grow with time by nature
    usual = {*profile.identifiers, *(column.name for column in profile.columns if column.times is not None)}
    for drift in [drift for drift in drifts if drift.name not in usual][:MAX_DRIFTS]:
        if drift.stability >= LARGE:
            yield Finding(
                "note",
                drift.name,
                f"changes over time: population stability index {drift.stability:.2f} between the earlier and the later"
                " half",
            )
