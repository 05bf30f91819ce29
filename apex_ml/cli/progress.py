"""What a command computes, in one line of the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from apex_ml.text import shortened_line

if TYPE_CHECKING:
    from rich.console import Console

LONGEST = 70


@contextmanager
def shown_progress(console: Console) -> Iterator[Callable[[str], None]]:
    """Give a function that shows a text in place of the one before. A console that is no terminal shows none."""
    with console.status("files") as status:
        yield lambda text: status.update(shortened_line(text, LONGEST))
