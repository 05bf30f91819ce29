"""What a person should know of a pipeline's file before its first run, although the file can be loaded."""

from __future__ import annotations

from collections.abc import Iterator

from apex_ml.contract.columns import Column
from apex_ml.contract.expressions import shown_expression
from apex_ml.contract.pipeline import Pipeline
from apex_ml.core.candidates import missing_requirements


def pipeline_advice(pipeline: Pipeline) -> tuple[str, ...]:
    """Candidates whose packages are not installed here, and expressions that give another result than one may think."""
    return (*_missing_packages(pipeline), *_empty_matches(pipeline))


def _missing_packages(pipeline: Pipeline) -> Iterator[str]:
    for name in pipeline.options.model.candidates:
        if lacking := missing_requirements(name):
            packages = " ".join(f"'{requirement}'" for requirement in lacking)
            yield (
                f"model.candidates: a training fails here, as {name} needs {', '.join(lacking)}: pip install"
                f" {packages}, or leave it out"
            )


def _empty_matches(pipeline: Pipeline) -> Iterator[str]:
    for column in pipeline.contract.derived.values():
        if _may_be_empty(column):
            yield (
                f"{column.name}: {shown_expression(column.derive)}: regexp_extract gives an empty text, not null, where"
                " nothing matches: add normalise: [trim], or write nullif(regexp_extract(…), '')"
            )


def _may_be_empty(column: Column) -> bool:
    """Whether a text that matches nothing becomes an empty text."""
    expression = column.expression
    if column.type != "string" or expression is None or "trim" in column.normalise:
        return False
    functions = {token.word for token in expression.tokens if token.kind == "name"}
    return "regexp_extract" in functions and "nullif" not in functions
