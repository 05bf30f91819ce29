"""Point Airflow at this checkout before anything imports it."""

from __future__ import annotations

from tests.support import airflow_home  # noqa: F401  (importing it is what does it)
