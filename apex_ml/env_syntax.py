"""The syntax of ``.env``: the one reader and the one writer of its lines.

A line is empty, a comment that begins with ``#``, or ``NAME=value``; ``export`` may stand before the name. Blanks
around the ``=`` do not count. A value is one line:

- without quotes it ends before `` #`` (a blank and a hash) or at the end of the line;
- in single quotes everything is literal, but ``\\'`` and ``\\\\``;
- in double quotes ``\\"``, ``\\\\``, ``\\$`` and ``\\``` stand for the second character.

Nothing is interpolated. Other readers of the file (a shell, Docker Compose) would put something in the place of
``${NAME}`` outside of single quotes, so that one is refused. The last line of a name holds. The file is UTF-8; a byte
order mark is ignored.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apex_ml.errors import ConfigError

_LINE = re.compile(r"(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[ \t]*(?P<equals>=?)[ \t]*(?P<rest>.*)")
_QUOTED = {
    "'": (re.compile(r"'((?:[^'\\]|\\.)*)'(.*)"), re.compile(r"\\(['\\])")),
    '"': (re.compile(r'"((?:[^"\\]|\\.)*)"(.*)'), re.compile(r'\\(["\\$`])')),
}
_COMMENT = re.compile(r"(?:^|\s+)#.*|\s+$")
_OTHER_ENCODINGS = ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))


@dataclass(frozen=True)
class EnvValue:
    """A value of ``.env`` and the number of its line."""

    text: str
    line: int


class EnvSyntaxError(ConfigError):
    """Lines of ``.env`` cannot be understood; `values` are those of the other lines."""

    def __init__(self, message: str, values: dict[str, EnvValue]) -> None:
        super().__init__(message)
        self.values = values


def read_env_file(path: Path) -> dict[str, EnvValue]:
    """Return the values of a file by name; a missing file has none.

    Raises :class:`~apex_ml.errors.ConfigError` for what is no file, cannot be read or is not UTF-8, and one error for
    all lines that cannot be understood.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; settings are read from a file there: move the folder away") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): let the user that runs Apex read it") from error
    return parse_env(decode_env(content, str(path)), str(path))


def decode_env(content: bytes, source: str) -> str:
    """Return the text of a ``.env``; raise ConfigError, naming the line, when it is not UTF-8."""
    remedy = f"save it as UTF-8, e.g. iconv -f {{}} -t UTF-8 '{source}'"
    for mark, name in _OTHER_ENCODINGS:
        if content.startswith(mark):
            raise ConfigError(f"{source} is written in {name}, settings are UTF-8: {remedy.format(name)}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{source}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8: {remedy.format('LATIN1')}"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(f"{source}, line {line}: holds a NUL; is it UTF-16? {remedy.format('UTF-16LE')}")
    return text


def parse_env(text: str, source: str) -> dict[str, EnvValue]:
    """Return the values of a text by name; raise one ConfigError that names every faulty line.

    >>> found = parse_env("A = 1 # one\\nexport B='a # b'\\nC=\\n", ".env")
    >>> {name: value.text for name, value in found.items()}
    {'A': '1', 'B': 'a # b', 'C': ''}
    """
    values: dict[str, EnvValue] = {}
    faults: list[str] = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        parts = _LINE.fullmatch(stripped)
        if parts is not None and not parts["equals"] and not parts["rest"] and not _ours(parts["name"]):
            continue  # a bare name: Docker Compose takes such a variable from its environment
        if parts is None or not parts["equals"]:
            faults.append(f"line {number}: {_shown(stripped)} is no NAME=value")
            continue
        try:
            values[parts["name"]] = EnvValue(_value(parts["name"], parts["rest"]), number)
        except ValueError as error:
            faults.append(f"line {number}: {parts['name']}: {error}")
    if faults:
        raise EnvSyntaxError(f"{source}: " + "; ".join(faults), values)
    return values


def format_value(value: str) -> str:
    """Return a value as :func:`parse_env`, a shell and Docker Compose all read it back.

    >>> [format_value(text) for text in ("/data/raw", "a b", "it's", 'a"b')]
    ['/data/raw', "'a b'", '"it\\'s"', '\\'a"b\\'']
    """
    if re.fullmatch(r"[\w@%+=:,./?&*-]*", value, re.ASCII):
        return value
    if "'" not in value and "\\" not in value:
        return f"'{value}'"
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def nonempty(values: Mapping[str, EnvValue]) -> dict[str, str]:
    """Return the texts of what is set: an empty value counts as absent."""
    return {name: value.text for name, value in values.items() if value.text}


def _ours(name: str) -> bool:
    return name.upper().startswith("APEX_")


def _value(name: str, rest: str) -> str:
    """The value in what follows the ``=``; a ValueError says why it is invalid, without repeating a secret."""
    quote = rest[:1]
    if quote not in _QUOTED:
        value = _COMMENT.sub("", rest)
    else:
        whole, escape = _QUOTED[quote]
        parts = whole.fullmatch(rest)
        if parts is None:
            raise ValueError(f"the quote {quote} is not closed on its line; a value is one line")
        if _COMMENT.sub("", parts[2]):
            raise ValueError(f"text follows the closing quote {quote}; write \\{quote} for a quote inside the value")
        value = escape.sub(r"\1", parts[1])
    if quote != "'" and _ours(name) and re.search(r"(?<!\\)\$\{", rest):
        raise ValueError("${…} is not replaced here: write the value itself, or in single quotes for these characters")
    return value


def _shown(line: str) -> str:
    """The beginning of a line that is no assignment; what follows may be a secret."""
    return repr(re.split(r"[\s:=]", line, maxsplit=1)[0][:40])
