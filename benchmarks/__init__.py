"""Measurements of every target, beside a floor or a peer: ``python -m benchmarks``."""

from __future__ import annotations

import sys

from apex_ml.settings import CODE_ROOT

# as Airflow's processes find the plugins: a measurement runs a trigger in this process
sys.path.append(str(CODE_ROOT / "plugins"))
