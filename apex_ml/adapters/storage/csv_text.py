"""The bytes of a CSV file as parts of UTF-8 text: decompressed by its name, decoded, without a byte order mark."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from apex_ml.adapters.storage.files import open_file
from apex_ml.contract.file_format import UTF8, FileFormat
from apex_ml.core.csv_format import count_decodable, guess_encoding, lines_beyond_ascii, wide_encoding
from apex_ml.errors import DataError

PART_BYTES = 4 << 20
MARK_BYTES = 4
"""Bytes of the longest byte order mark."""
MIN_LINES = 3
"""Lines beyond ASCII from which a file is known to be in UTF-8: few letters of another encoding are UTF-8 by chance."""
MIN_UTF8 = 0.99
"""Share of such lines that are then text in UTF-8."""
_DAMAGED = "apex_damaged"
"""The name of the handler that marks bytes which are no text."""


def _mark(error: UnicodeError) -> tuple[str, int]:
    """A lone surrogate in place of bytes that are no text: UTF-8 cannot hold it, so that its row is refused."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error(_DAMAGED, _mark)


def read_text(path: Path, form: FileFormat) -> Iterator[bytes]:
    """The text of a file in parts, as UTF-8. Bytes that are no text in its encoding are invalid UTF-8.

    Raises :class:`~apex_ml.errors.DataError` for a damaged compressed file and for another encoding than declared, and
    as :func:`~apex_ml.adapters.storage.files.open_file` does.
    """
    with open_file(path) as file:
        parts = decompress(path, file)
        first = next(parts, b"")
        _refuse_other_encoding(path.name, first, form.encoding)
        decode = _decoder(form.encoding)
        yield decode(first).removeprefix(codecs.BOM_UTF8)
        for part in parts:
            yield decode(part)
        yield decode(b"", True)


def _refuse_other_encoding(name: str, head: bytes, encoding: str) -> None:
    """Refuse a file whose beginning is plainly in another encoding, so that its names and levels would be wrong."""
    wide = wide_encoding(head)
    if wide is not None and not _reads(encoding, wide, head):
        what = "begins as text in UTF-32" if wide == "utf-32" else "begins as text in UTF-16"
        remedy = wide
    elif encoding == UTF8 or wide is not None or len(head) < MARK_BYTES:
        return
    elif head.startswith(codecs.BOM_UTF8):
        what, remedy = "begins as text in UTF-8 with a byte order mark", UTF8
    elif encoding.startswith(("utf-16", "utf-32")):
        if b"\0" not in head and b"\n" in head:  # a line end has a zero there
            what, remedy = f"begins as text of one byte a character, not in {encoding.upper()}", guess_encoding(head)
        elif encoding in ("utf-16", "utf-32"):
            what, remedy = "begins without a byte order mark", f"{encoding}-le"
        else:
            return
    else:
        lines = list(lines_beyond_ascii(head))
        if len(lines) < MIN_LINES or count_decodable(lines, UTF8) < MIN_UTF8 * len(lines):
            return
        what, remedy = f"is text in UTF-8, and encoding is {encoding}", UTF8
    declared = encoding.upper() if encoding.startswith("utf") else encoding
    declared += " with a byte order mark" if encoding in ("utf-16", "utf-32") else ""
    raise DataError(
        f"{name}: {what}; write encoding: {remedy} under files in the pipeline's file, or deliver it in {declared}"
    )


def _reads(encoding: str, wide: str, head: bytes) -> bool:
    """Whether an encoding reads text of two or four bytes a character, in their sequence."""
    if encoding == wide:
        return True
    first_byte = "le" if head[:1] == codecs.BOM_UTF16_LE[:1] else "be"  # by the mark
    return wide in ("utf-16", "utf-32") and encoding == f"{wide}-{first_byte}"


class _Decoder:
    """Makes UTF-8 of text in another encoding, part by part."""

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)(errors=_DAMAGED)

    def __call__(self, part: bytes, last: bool = False) -> bytes:
        return self._decoder.decode(part, last).encode(UTF8, "surrogatepass")


class _Unchanged:
    """Leaves UTF-8 as it is: the splitter checks it."""

    def __call__(self, part: bytes, last: bool = False) -> bytes:
        return part


def _decoder(encoding: str) -> _Decoder | _Unchanged:
    return _Unchanged() if encoding == UTF8 else _Decoder(encoding)


def decompress(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The bytes of an open file in parts, decompressed when its name says that it is compressed."""
    kind = path.suffix.lower()
    if kind not in (".gz", ".zst"):
        while part := file.read(PART_BYTES):
            yield part
        return
    try:
        stream = gzip.GzipFile(fileobj=file) if kind == ".gz" else pa.CompressedInputStream(file, "zstd")
        with stream:
            while part := stream.read(PART_BYTES):
                yield part
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        what = "gzip" if kind == ".gz" else "zstd"
        raise DataError(f"{path.name}: a damaged or truncated {what} file; deliver it again ({error})") from error
