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
from apex_ml.errors import DataError

PART_BYTES = 4 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
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
        if form.encoding == UTF8 and first.startswith(_UTF16_MARKS):
            raise DataError(
                f"{path.name}: begins as text in UTF-16; write encoding: utf-16 under files in the pipeline's file, or"
                " deliver it in UTF-8"
            )
        decode = _decoder(form.encoding)
        yield decode(first).removeprefix(codecs.BOM_UTF8)
        for part in parts:
            yield decode(part)
        yield decode(b"", True)


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
