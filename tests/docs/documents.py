"""The documents of the project and the code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from apex_ml.settings import CODE_ROOT

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"<!-- ([\w-]+):begin -->\n.*?<!-- \1:end -->", re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Document:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(CODE_ROOT))

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of a language."""
        return [body for matches, body in FENCE.findall(self.text) if matches == language]

    @property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return FENCE.sub("", self.text)

    @property
    def commands(self) -> list[str]:
        """What a reader might type: inline code, and the lines of sh blocks."""
        return _commands(self.text)

    @property
    def written(self) -> str:
        """The text without the parts that are generated from the code."""
        return GENERATED.sub("", self.text)

    @property
    def written_commands(self) -> list[str]:
        """What a reader might type, of the written text."""
        return _commands(self.written)


def _commands(text: str) -> list[str]:
    lines = [line for language, body in FENCE.findall(text) if language == "sh" for line in body.splitlines()]
    return [line.split(" # ")[0].strip() for line in [*INLINE.findall(FENCE.sub("", text)), *lines]]


DOCUMENTS = [
    Document(path)
    for path in [
        *(CODE_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "deployment/README.md")),
        *sorted((CODE_ROOT / "docs").rglob("*.md")),
    ]
]
