"""The templates of the pages, with their filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from apex_airflow.pages import formats
from apex_airflow.pages.drift import heat, is_framed
from apex_airflow.pages.quality import interval, verdict
from apex_ml.contract.pipeline import dag_id
from apex_ml.text import visible_lines

TEMPLATES = Path(__file__).parent / "templates"


def _visible(value: Any) -> Any:
    """A value for the page; invisible characters of a name or message are replaced by their code points."""
    return visible_lines(value) if type(value) is str else value


def address(name: str) -> str:
    """A name as one part of a URL.

    >>> address("a/b?")
    'a%2Fb%3F'
    """
    return quote(name, safe="")


def environment() -> jinja2.Environment:
    """Return the templates; every value that they show is escaped."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    for function in (
        *(formats.number, formats.decimal, formats.percent, formats.duration, formats.age, formats.when),
        *(formats.effect, verdict, interval, heat),
    ):
        templates.filters[function.__name__] = function
    templates.filters["address"] = address
    templates.globals["dag_id"] = dag_id
    templates.tests["framed"] = is_framed
    return templates


ENVIRONMENT = environment()
