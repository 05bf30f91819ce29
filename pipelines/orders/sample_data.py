"""Simulate orders as raw parquet files.

Called as ``python sample_data.py FOLDER``; `apex run` does so when the pipeline has no raw data.
"""

from __future__ import annotations

import sys

from apex_ml.cli.main import main

ORDERS = 1_250_000

if __name__ == "__main__":
    sys.argv = ["apex", "simulate", "--orders", str(ORDERS), "--out", sys.argv[1]]
    main()
