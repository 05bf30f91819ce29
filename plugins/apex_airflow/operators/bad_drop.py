"""A failed task for each drop that could not be scored; it does not stop the tasks that follow the other drops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException


class BadDropOperator(BaseOperator):
    """Fail with the name of a drop and the reason. It is not retried: the same bytes would fail again.

    :param bad: the drop: ``drop``, ``reason`` and ``label``, one item of the list mapped over.
    """

    ui_color = "#f8e8e8"

    def __init__(self, *, bad: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bad = bad

    def execute(self, context: Context) -> NoReturn:
        """Raise the reason with the name of the drop."""
        drop, reason = str(self.bad["drop"]), str(self.bad["reason"])
        raise AirflowFailException(reason if reason.startswith(drop) else f"{drop}: {reason}")
