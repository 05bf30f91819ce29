"""The generated parts of the reference pages: settings, options, functions, commands, SQL views, metrics,
exit codes.

A page holds a generated part between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``; people write the rest.
``make reference`` writes the parts, and ``tests/docs/test_reference.py`` compares them with the code.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic.fields import FieldInfo

from apex_ml import errors
from apex_ml.cli.main import COMMANDS, apex
from apex_ml.contract.expressions import FUNCTIONS_BY_KIND
from apex_ml.contract.options import SECTIONS, PipelineOptions
from apex_ml.contract.options_file import option_field
from apex_ml.pipeline_values import FORMER, FORMER_CONTRACT
from apex_ml.settings import CODE_ROOT

Read = Callable[[str], Sequence[Sequence[Any]]]
"""Runs a query on a migrated database and returns its rows."""

REFERENCE = CODE_ROOT / "docs" / "reference"
VIEWS = """
SELECT n.nspname || '.' || c.relname, obj_description(c.oid, 'pg_class'), a.attname,
       format_type(a.atttypid, a.atttypmod)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname IN ('apex', 'orders')
WHERE c.relkind = 'v' AND has_table_privilege('apex_reader', c.oid, 'SELECT')
ORDER BY n.nspname, c.relname, a.attnum
"""


def marks(name: str) -> tuple[str, str]:
    """The lines before and after a generated part."""
    return f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"


def generated_part(page: Path, name: str) -> str:
    """The generated part of a page as it is committed."""
    begin, end = map(re.escape, marks(name))
    match = re.search(f"{begin}(.*?){end}", page.read_text(encoding="utf-8"), re.DOTALL)
    if match is None:
        raise ValueError(f"{page.name}: there is no part between {marks(name)}")
    return match[1]


def write_part(page: Path, name: str, text: str) -> None:
    """Replace the generated part of a page."""
    old = generated_part(page, name)
    begin, end = marks(name)
    whole = page.read_text(encoding="utf-8").replace(f"{begin}{old}{end}", f"{begin}{text}{end}")
    page.write_text(whole, encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(re.sub(" +", " ", f"| {' | '.join(line)} |") for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def options() -> str:
    """Every section of a pipeline's file beside its contract, with its keys."""
    return "\n".join(_section(name) for name in SECTIONS)


def _section(name: str) -> str:
    part: Any = PipelineOptions.model_fields[name].annotation
    rows = [(f"`{key}`", _default(field), _description(field)) for key, field in part.model_fields.items()]
    return f"### `{name}`\n\n{_cell(part.__doc__)}\n\n{table(['key', 'default', 'what it is'], rows)}"


def _default(field: FieldInfo) -> str:
    """The default of an option as a file would have it; nothing for an empty text."""
    value = field.default
    if value is None:
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if "*" in str(value):  # a cron; YAML reads one that begins with * in quotes only
        return f'`"{value}"`'
    return f"`{value}`" if value != "" else ""


def _description(field: FieldInfo) -> str:
    if typing.get_origin(field.annotation) is not typing.Literal:
        return str(field.description)
    return f"{field.description} One of: {', '.join(typing.get_args(field.annotation))}."


def former_variables() -> str:
    """Every variable of the first edition with the option that took its place."""
    rows = [(f"`{FORMER_CONTRACT}`", "the file itself, in the folder that `APEX_PIPELINES` names")]
    for variable, (section, key) in FORMER.items():
        assert option_field(section, key).description, variable
        rows.append((f"`{variable}`", f"`{section}.{key}`"))
    return table(["former variable", "option"], rows)


def commands() -> str:
    """Every command with its arguments and options."""
    context = click.Context(apex, info_name="apex")
    return "\n".join(
        section for name in COMMANDS for section in _command(apex.get_command(context, name), name, context)
    )


def _command(command: click.Command | None, name: str, parent: click.Context) -> Iterator[str]:
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"### `{context.command_path}`\n\n{_paragraphs(command.help)}\n\n`{context.command_path} {usage}`\n"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    options = [
        (f"`{record[0]}`", record[1]) for record in records if record and record[1] and "--help" not in record[0]
    ]
    if options:
        yield table(["option", "what it does"], options)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            yield from _command(command.get_command(context, below), below, context)


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").replace("\b", "").split("\n\n")).replace(
        "<", "&lt;"
    )


def views(read: Read) -> str:
    """Every view that the reader may select from, with its columns."""
    results: dict[str, tuple[str, list[str]]] = {}
    for view, comment, column, kind in read(VIEWS):
        results.setdefault(view, (comment or "", []))[1].append(f"`{column}` {kind}")
    return "\n".join(
        f"### `{view}`\n\n{_cell(comment)}\n\n{', '.join(columns)}\n" for view, (comment, columns) in results.items()
    )


def metrics(exposition: bytes) -> str:
    """Every metric of a text that Prometheus would scrape."""
    result = text_string_to_metric_families(exposition.decode())
    families = [family for family in result if not family.name.endswith("_created")]  # when each counter began
    return table(
        ["metric", "type", "what it is"],
        sorted((_metric(family), family.type, family.documentation) for family in families),
    )


def _metric(family: Metric) -> str:
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
    return f"`{name}{'{' + ','.join(labels) + '}' if labels else ''}`"


def functions() -> str:
    """The functions that an expression of a derived column may hold."""
    rows = [(kind, ", ".join(f"`{name}`" for name in sorted(names))) for kind, names in FUNCTIONS_BY_KIND.items()]
    return table(["about", "functions"], rows)


def exit_codes() -> str:
    """Every exit code with the error behind it."""
    kinds = [errors.DataError, errors.TransientError, errors.ConfigError]
    rows = [("0", "", "Done. Also when there was nothing to do, or when a challenger was rejected.")]
    rows += [(str(kind.exit_code), f"`{kind.__name__}`", (kind.__doc__ or "").split("\n\n")[0]) for kind in kinds]
    usage = "The command line is wrong: no such command or option, or a value that it does not take. Nothing was done."
    rows.append((str(click.UsageError.exit_code), "usage", usage))
    rows.append((str(errors.ApexError.exit_code), "any other", "A fault of Apex itself, with a traceback."))
    return table(["exit code", "error", "meaning"], rows)
