"""Read the beginning of a CSV file, and guess its format, for a table that no pipeline describes yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from apex_ml.adapters.storage.csv_records import LINE_END, Grammar
from apex_ml.adapters.storage.csv_text import decompress, read_text
from apex_ml.adapters.storage.files import open_file
from apex_ml.contract.file_format import UTF8, FileFormat
from apex_ml.core.csv_format import (
    count_decodable,
    guess_decimal,
    guess_delimiter,
    guess_encoding,
    guess_nulls,
    lines_beyond_ascii,
)
from apex_ml.text import shortened_line, visible
from apex_ml.wording import counted

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
JSON_SUFFIXES = (".jsonl", ".ndjson")
COMPRESSED_SUFFIXES = (".gz", ".zst")
MAX_ROWS = 10_000
MAX_NAMED = 5
MAX_SHOWN = 60


def is_named_csv(path: Path) -> bool:
    """Whether the name of a file says that it is CSV, compressed or not.

    >>> [is_named_csv(Path(name)) for name in ("a.csv", "A.TSV.gz", "a.parquet", "a.gz")]
    [True, True, False, False]
    """
    return _plain_name(path).endswith(CSV_SUFFIXES)


def is_named_json_lines(path: Path) -> bool:
    """Whether the name of a file says that it is JSON lines, compressed or not.

    >>> [is_named_json_lines(Path(name)) for name in ("a.jsonl", "A.NDJSON.gz", "a.json")]
    [True, True, False]
    """
    return _plain_name(path).endswith(JSON_SUFFIXES)


def _plain_name(path: Path) -> str:
    name = path.name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def guess_format(path: Path) -> tuple[FileFormat, tuple[str, ...]]:
    """The format of a CSV file, by its first rows, and what a person should know of it.

    Quotes are the usual ones, and the first row holds the names. Raises as
    :func:`~apex_ml.adapters.storage.csv_text.read_text` does.
    """
    with open_file(path) as file:
        head = next(decompress(path, file), b"")
    form = FileFormat(format="csv", encoding=guess_encoding(head))
    text = next(read_text(path, form), b"")

    def rows_by(delimiter: str) -> list[list[str]]:
        return _rows(Grammar(form.model_copy(update={"delimiter": delimiter})), text)

    delimiter = guess_delimiter(rows_by)
    rows = rows_by(delimiter)
    nulls = guess_nulls(rows)
    guessed = FileFormat(
        format="csv",
        encoding=form.encoding,
        delimiter=delimiter,
        decimal="," if guess_decimal(rows, delimiter) == "," else ".",
        nulls=("", *nulls),
    )
    notes = [
        f"{word} counts as null in all columns (files.nulls), as it is among the numbers or dates of"
        f" {', '.join(map(visible, names[:MAX_NAMED]))}{' …' if len(names) > MAX_NAMED else ''}"
        for word, names in nulls.items()
    ]
    return guessed, (*_mixed_encodings(head, form.encoding), *notes)


def _mixed_encodings(head: bytes, encoding: str) -> Iterator[str]:
    """A note where some lines of a text in an encoding of Windows are UTF-8 as well."""
    if encoding.startswith("utf"):
        return
    lines = list(lines_beyond_ascii(head))
    of_utf8 = [line for line in lines if count_decodable([line], UTF8)]
    if of_utf8:
        shown = shortened_line(visible(of_utf8[0].decode(encoding, "replace")), MAX_SHOWN)
        yield (
            f"the file mixes encodings: it is read as {encoding}, and {counted(len(of_utf8), 'line')} of"
            f" {len(lines):,} beyond ASCII are text in UTF-8, of which that makes other letters, as in {shown}; deliver"
            " the whole file in UTF-8"
        )


def _rows(grammar: Grammar, text: bytes) -> list[list[str]]:
    """The values of the first records that are well formed. The last one may be incomplete."""
    rows: list[list[str]] = []
    at = 0
    while len(rows) < MAX_ROWS:
        if (match := grammar.record.match(text, at)) is None:
            if (end := LINE_END.search(text, at)) is None:
                return rows
            at = end.end()
            continue
        at = match.end()
        with suppress(UnicodeDecodeError):
            rows += [[grammar.text_of(value) for value in grammar.values(match[1])]] if match[1] else []
    return rows
