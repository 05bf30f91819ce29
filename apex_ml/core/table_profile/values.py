"""The description of a table as values. Levels and labels are text or numbers for people and for rules alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from apex_ml.contract.file_format import FileFormat
from apex_ml.core.table_profile.bins import MAX_LEVELS

Kind = Literal["boolean", "integer", "number", "date", "timestamp", "text", "other"]
"""What a column holds. `other` are lists, structures, bytes and times of day, of which only values are counted."""
QUANTILES = (0.01, *(n / 20 for n in range(1, 20)), 0.99)
Q01, Q05, Q25, MEDIAN, Q75, Q95, Q99 = (QUANTILES.index(share) for share in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99))
FAR_DAYS = 366
"""Days by which the earliest or latest date must be away from the other ones to be far from them, at least."""
KEY_SHARE = 0.9
"""Share of different values from which a column looks like the key of a row."""


@dataclass(frozen=True)
class Source:
    """The files of a table. `types` are the types of a column by file groups, where they are not all the same."""

    name: str
    files: int
    bytes: int
    left_out: Mapping[str, str]
    """Files that are not read, with the reason."""
    columns: tuple[tuple[str, str], ...]
    """Names with types as the files have them, in the order of the first file that has each."""
    mixed: Mapping[str, tuple[str, ...]]
    """Columns whose type differs by file, with their types."""
    partial: Mapping[str, int]
    """Columns that some files lack, with the number of these files."""
    folders: tuple[str, ...] = ()
    """Columns that are in the names of folders, such as year=2024, and not in all files."""
    csv: FileFormat | None = None
    """The format of the files, where they are CSV or JSON lines."""
    bad_lines: Mapping[str, int] = field(default_factory=dict)
    """Lines of CSV files that cannot be parsed, by the rule that they break."""
    csv_notes: tuple[str, ...] = ()
    """What a person should know of how the CSV files are read."""


@dataclass(frozen=True)
class NumberSummary:
    """Finite numbers of a column. `quantiles` are at :data:`QUANTILES`."""

    low: float
    high: float
    mean: float
    deviation: float
    zeros: int
    negative: int
    whole: int
    not_finite: int
    quantiles: tuple[float, ...]
    decimals: int | None
    """Decimals that all values do with, at most 4; None when some need more."""


@dataclass(frozen=True)
class TimeSummary:
    """Dates or timestamps of a column. `quantiles` are at :data:`QUANTILES`."""

    first: datetime
    last: datetime
    days: int
    with_time: int
    """Values that are not midnight."""
    not_finite: int
    quantiles: tuple[datetime, ...]
    nanoseconds: int = 0
    """Values that microseconds do not hold."""
    unreadable: int = 0
    """Texts that are no date, which count as null."""

    @property
    def far_first(self) -> bool:
        """Whether the earliest one is far from the others, as 1900-01-01 for an unknown day may be."""
        return (self.quantiles[0] - self.first).days > self._usual_days

    @property
    def far_last(self) -> bool:
        """Whether the latest one is far from the others, as 9999-12-31 is."""
        return (self.last - self.quantiles[-1]).days > self._usual_days

    @property
    def _usual_days(self) -> int:
        return max(FAR_DAYS, (self.quantiles[-1] - self.quantiles[0]).days)


@dataclass(frozen=True)
class TextSummary:
    """Texts of a column. Counts are rows."""

    shortest: int
    longest: int
    blank: int
    untrimmed: int
    numbers: int
    whole_numbers: int
    folded: int
    """Different texts, when case and blanks at the ends do not count."""


@dataclass(frozen=True)
class Level:
    """A value as text, with its rows."""

    value: str
    rows: int


@dataclass(frozen=True)
class OddTexts:
    """Texts of a CSV column of numbers that are none: their rows, and the most frequent ones."""

    rows: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class ColumnProfile:
    """One column. `levels` are its most frequent values, the first one most; `bins` is how it is drawn."""

    name: str
    kind: Kind
    stored: str
    """Type in the files."""
    formats: tuple[str, ...]
    """Formats of strptime, where the files hold dates as text."""
    rows: int
    known: int
    """Rows that are not null."""
    distinct: int
    levels: tuple[Level, ...]
    bins: tuple[Level, ...]
    """Rows by bin, without nulls: ranges of a number or time, or levels with the rest as the last one."""
    numbers: NumberSummary | None = None
    times: TimeSummary | None = None
    text: TextSummary | None = None
    derive: str | None = None
    """The expression over other columns that gives its values, where the files do not hold it."""
    sources: tuple[str, ...] = ()
    """The columns that the expression reads."""
    odd: OddTexts | None = None
    """Texts among its numbers, which count as null here; of a text column those that keep it from being a number."""

    @property
    def nulls(self) -> int:
        """Rows without a value."""
        return self.rows - self.known

    @property
    def unread(self) -> int:
        """Rows whose text is no number, which count as null here and are quarantined by a contract of numbers."""
        return self.odd.rows if self.odd is not None and self.kind != "text" else 0

    @property
    def null_share(self) -> float:
        """Share of the rows without a value."""
        return self.nulls / self.rows if self.rows else 0.0

    @property
    def absent_share(self) -> float:
        """Share of the rows without a value, or with a blank text, which a contract takes for null."""
        return (self.nulls + (self.text.blank if self.text else 0)) / self.rows if self.rows else 0.0

    @property
    def is_unique(self) -> bool:
        """Whether every row has its own value."""
        return 1 < self.rows == self.known == self.distinct

    @property
    def is_ordered(self) -> bool:
        """Whether its bins are ranges."""
        return self.kind in ("integer", "number", "date", "timestamp") and self.distinct > MAX_LEVELS


@dataclass(frozen=True)
class Association:
    """How much a column alone says about the target.

    `gain` is the share of the log loss of the class shares that a table by the column's values removes on rows that it
    was not made from: 1 is a perfect prediction, 0 or less is of no use.
    """

    name: str
    gain: float
    correlation: float | None
    """Pearson's, of two numbers."""
    shares: tuple[tuple[str, tuple[int, ...]], ...]
    """By bin, nulls last: its label and the rows of each class."""
    absent_with_target: float = 0.0
    """Share of the rows without a target in which the column is null, too; 0 when it is null in other rows as well."""


@dataclass(frozen=True)
class TargetProfile:
    """The target. Of a number with many values the classes are ranges of about equal size."""

    name: str
    classes: tuple[Level, ...]
    are_ranges: bool
    others: int
    """Classes beyond the most frequent ones, which are taken together as the last one."""
    entropy: float
    """Log loss of the class shares alone, in nats."""
    associations: tuple[Association, ...]
    """Of all other columns, the largest gain first."""


@dataclass(frozen=True)
class Drift:
    """How the distribution of a column differs between the earlier and the later half of the periods.

    `stability` is the population stability index: 0 for no change; above 0.1 visible, above 0.25 large.
    """

    name: str
    stability: float
    labels: tuple[str, ...]
    """The bins, nulls last."""
    shares: tuple[tuple[float, ...], ...]
    """By period, the share of each bin."""


@dataclass(frozen=True)
class TimeProfile:
    """The rows over time."""

    name: str
    unit: Literal["hour", "day", "week", "month", "quarter", "year"]
    periods: tuple[tuple[datetime, int], ...]
    """The periods with rows, and their rows."""
    drifts: tuple[Drift, ...]
    """Of all other columns, the largest change first."""


@dataclass(frozen=True)
class Finding:
    """What a person should look at. `warning` comes first."""

    severity: Literal["warning", "note"]
    column: str | None
    text: str


@dataclass(frozen=True)
class TableProfile:
    """The description of a table."""

    source: Source
    rows: int
    repeated_rows: int
    columns: tuple[ColumnProfile, ...]
    keys: tuple[tuple[str, ...], ...]
    """Columns, or pairs of columns, whose values identify a row."""
    identifiers: tuple[str, ...]
    """Columns that look like the name of a thing rather than a property."""
    target: TargetProfile | None
    time: TimeProfile | None
    findings: tuple[Finding, ...] = field(default=())

    def column(self, name: str) -> ColumnProfile:
        """The column of a name."""
        return next(column for column in self.columns if column.name == name)
