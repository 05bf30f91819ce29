"""Apex: nightly retraining, promotion on evidence and exactly-once scoring of the order channel."""

__version__ = "0.1.0"
