"""Live progress of task instances: a table on a terminal, one line a change elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from apex_ml.platform.airflow_runs import TaskRun

COLOURS = {
    "success": "green",
    "running": "cyan",
    "failed": "red",
    "upstream_failed": "red",
    "up_for_retry": "yellow",
    "awaiting_input": "yellow",
    "skipped": "magenta",
}


class TaskBoard:
    """Shows the tasks of a DAG run while the block lasts; the last table stays on the screen."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._reported: dict[str, str] = {}
        self._labels: dict[tuple[str, int], str] = {}

    def __enter__(self) -> Self:
        """Start to draw."""
        if self._live:
            self._live.start()
        else:
            self.console.print(self.title, markup=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        if self._live:
            self._live.stop()

    def show(self, tasks: Sequence[TaskRun], note: str = "") -> None:
        """Show the tasks as they are now, started ones first, and a note on the whole."""
        now = datetime.now(UTC)
        # Airflow forgets a label while the task waits for its next try
        self._labels |= {(task.task_id, task.map_index): task.label for task in tasks if task.label}
        tasks = [replace(task, label=self._labels.get((task.task_id, task.map_index))) for task in tasks]
        ordered = sorted(tasks, key=lambda task: (task.started is None, task.started or now, task.map_index))
        if self._live:
            self._live.update(self._table(ordered, note, now), refresh=True)
            return
        for task in ordered:
            state = _state(task)
            if self._reported.get(task.name) != state and task.state not in (None, "scheduled", "queued"):
                self._reported[task.name] = state
                took = f"  {task.seconds:.1f} s" if task.finished and task.seconds is not None else ""
                self.console.print(f"  {task.name:<24} {state}{took}", markup=False)
        if note and self._reported.get("") != note:
            self._reported[""] = note
            self.console.print(f"  {note}", markup=False)

    def _table(self, tasks: Sequence[TaskRun], note: str, now: datetime) -> Table:
        table = Table(title=self.title, title_justify="left", title_style="bold", caption=note, caption_justify="left")
        table.add_column("task")
        table.add_column("state")
        table.add_column("seconds", justify="right")
        for task in tasks:
            elapsed = task.elapsed(now)
            state = _state(task)
            table.add_row(
                task.name,
                f"[{COLOURS.get(task.state or '', 'dim')}]{state}[/]",
                "" if elapsed is None else f"{elapsed:.1f}",
            )
        return table


def _state(task: TaskRun) -> str:
    state = task.state or "waiting"
    return f"{state}, try {task.try_number}" if task.try_number > 1 else state
