"""The settings as text: ``.env.example`` and the table of the settings page, generated from the field descriptions."""

from __future__ import annotations

import typing

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from apex_ml.platform.embedded.env_file import CONTAINER_SECRETS, SECRETS
from apex_ml.setting_sources import variable_of
from apex_ml.settings import CODE_ROOT, Settings


def env_example() -> str:
    """Every setting as a commented line of ``.env``, with its description and default."""
    blocks = [
        """\
# Every setting of Apex. Copy a line into .env (or export it) and change it; the environment wins over .env.
# Options of a pipeline are in pipelines/<name>/pipeline.yaml; APEX_<PIPELINE>__<SECTION>__<KEY> replaces one here.
# Generated: apex settings --format env > .env.example
"""
    ]
    for name, field in Settings.model_fields.items():
        blocks.append(f"# {_description(name, field)}\n#{variable_of(name)}={_default(field)}\n")
    return "\n".join(blocks)


def markdown_table() -> str:
    """Every setting as a row of a Markdown table."""
    rows = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = f"`{_default(field)}`" if _default(field) else ""
        description = _description(name, field).replace("<", "&lt;").replace("|", "\\|")
        rows.append(f"| `{variable_of(name)}` | {default} | {description} |".replace("  ", " "))
    return "\n".join(rows) + "\n"


def _description(name: str, field: FieldInfo) -> str:
    text = field.description or ""
    if typing.get_origin(field.annotation) is typing.Literal:
        text += f" One of: {', '.join(map(str, typing.get_args(field.annotation)))}."
    if name in SECRETS:
        text += " Made once by `apex up`."
    if name in CONTAINER_SECRETS:
        text += " Made once by `RUNTIME=docker make up`."
    return text


def _default(field: FieldInfo) -> str:
    if isinstance(field.default, SecretStr) or field.default_factory is not None:
        return ""
    # the place of this checkout says nothing on another machine
    return str(field.default).replace(str(CODE_ROOT), "<checkout>")
