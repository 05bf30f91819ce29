"""Apex: nightly retraining, promotion on evidence and exactly-once scoring of any table."""

__version__ = "0.1.0"
