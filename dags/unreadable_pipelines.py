"""Show the pipelines whose file cannot be read as an import error, in place of their DAGs.

Airflow disables every DAG of a file with an import error. Therefore the error is raised here, in a file of its own, and
the DAGs of the other pipelines in the other files go on. This file has no DAG.
"""

from __future__ import annotations

from apex_airflow.pipelines import refuse_unreadable
from apex_ml.settings import Settings

refuse_unreadable(Settings.load())
