"""Imports what the steps import, for the process that forked commands begin as. It computes nothing and has one thread.

A pool of threads would be dead in the forked processes; OpenMP's begins with the first computation.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a step is allowed the warnings of what it imports
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # a step sets it, too; the client would start a thread

    import apex_ml.cli.main
    import apex_ml.cli.platform
    import apex_ml.cli.steps
    import apex_ml.core.candidates.logistic
    import apex_ml.core.candidates.prior
    import apex_ml.core.candidates.xgboost
    import apex_ml.steps.monitor
    import apex_ml.steps.outcomes
    import apex_ml.steps.promote
    import apex_ml.steps.score
    import apex_ml.steps.train
    import apex_ml.steps.validate  # noqa: F401

if threading.active_count() > 1:
    sys.exit(f"these threads would be missing in every forked process: {threading.enumerate()}")
