"""The service as supervisor starts it: ``python -m apex_ml.serving``."""

from apex_ml.cli import main

main(["serve"])
