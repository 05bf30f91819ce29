"""The pipeline that the command line names."""

from __future__ import annotations

import click

PIPELINE = "apex_ml.pipeline"
"""Key of the name in the metadata that the contexts of a call share."""


def named_pipeline(ctx: click.Context) -> str | None:
    """The pipeline of ``-p NAME``; None without one, also where APEX_PIPELINE gives the commands a default."""
    name: str | None = ctx.meta.get(PIPELINE)
    return name
