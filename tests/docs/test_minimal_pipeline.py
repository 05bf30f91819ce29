"""The minimal file of the reference: it loads, and nothing can be left out of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from apex_ml.contract.pipeline_file import read_pipeline
from apex_ml.errors import ConfigError
from apex_ml.settings import CODE_ROOT

PAGE = (CODE_ROOT / "docs" / "reference" / "pipeline.md").read_text(encoding="utf-8")
(TEXT,) = re.findall("<!-- minimal file -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
OPTIONAL = {("features", "attributes")}
"""What the file could do without, although no model could be trained then."""
OF_DROPS = {("columns", "repaid", key) for key in ("required", "nullable")}
"""What is needed for drops without target alone."""


def parts(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all keys, of those in keys as well."""
    for key, value in content.items() if isinstance(content, dict) else ():
        yield (*place, key)
        yield from parts(value, (*place, key))


def test_the_minimal_file_loads(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(TEXT, encoding="utf-8")
    contract, options = read_pipeline(file)
    assert (
        contract.classes == ("false", "true") and not contract.has_entity and options.model.candidates == ("xgboost",)
    )


@pytest.mark.parametrize("place", [place for place in parts(yaml.safe_load(TEXT)) if place not in OPTIONAL | OF_DROPS])
def test_every_part_of_it_is_required(tmp_path: Path, place: tuple[str, ...]) -> None:
    content = below = yaml.safe_load(TEXT)
    for key in place[:-1]:
        below = below[key]
    del below[place[-1]]
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError):
        read_pipeline(file)


def test_the_table_names_every_required_part() -> None:
    table = PAGE[PAGE.index("## The required parts") : PAGE.index("<!-- minimal file -->")]
    assert all(f"`{place[0]}`" in table for place in parts(yaml.safe_load(TEXT)))
