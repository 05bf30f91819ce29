"""One line for each phase of `apex up`, with its seconds; on a terminal also what it waits for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console


class Phases:
    """Reports phases, which may overlap, to a console. Off a terminal it prints plain lines only."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._lock = threading.Lock()
        self._current: list[str] = []
        self._status = self.console.status("") if self.console.is_terminal else None

    def say(self, text: str) -> None:
        """Print one line."""
        with self._lock:
            self.console.print(text, markup=False)

    def done(self, name: str, seconds: float) -> None:
        """Print that something is finished."""
        self.say(f"  ok  {name:<24}{seconds:5.1f} s")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show a phase while it lasts, and its time when it succeeds."""
        begin = time.monotonic()
        self._show(add=name)
        try:
            yield
        finally:
            self._show(remove=name)
        self.done(name, time.monotonic() - begin)

    @contextlib.contextmanager
    def waiting(self, names: Callable[[], Sequence[str]]) -> Iterator[None]:
        """Show what the phase waits for."""
        stop = threading.Event()

        def refresh() -> None:
            shown: list[str] = []
            while not stop.wait(0.2):
                for name in set(names()) - set(shown):
                    self._show(add=name)
                for name in set(shown) - set(names()):
                    self._show(remove=name)
                shown = list(names())
            for name in shown:
                self._show(remove=name)

        thread = threading.Thread(target=refresh, daemon=True)
        if self._status:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if self._status:
                thread.join()

    def _show(self, add: str | None = None, remove: str | None = None) -> None:
        with self._lock:
            if add:
                self._current.append(add)
            if remove in self._current:
                self._current.remove(remove)
            if self._status:
                self._status.update(", ".join(self._current))
                (self._status.start if self._current else self._status.stop)()
