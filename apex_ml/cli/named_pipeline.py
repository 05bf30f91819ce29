"""The pipeline that the command line names."""

from __future__ import annotations

import click


def named_pipeline(ctx: click.Context) -> str | None:
    """The pipeline of ``apex -p NAME``; None without one, also where APEX_PIPELINE gives the commands a default."""
    name: str | None = ctx.find_root().params.get("pipeline")
    return name
