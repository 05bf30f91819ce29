"""The contract refuses what contradicts itself, and says where."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pyarrow as pa
import pytest
import yaml

from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import json_schema, load_contract
from apex_ml.errors import ConfigError
from apex_ml.settings import CODE_ROOT

ORDERS = CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml"
TEXT = ORDERS.read_text(encoding="utf-8")

CONTRADICTIONS = [
    # (what is replaced, by what, text on the line that the message must point at, key, words)
    ("type: int64", "type: integer", "type: integer", "columns.materiales_distintos_val.type", "'int64'"),
    (
        "  pais_cd:\n    description: Country of the client.",
        "  pais_cd:\n    colour: red\n    description: x",
        "colour: red",
        "columns.pais_cd.colour",
        "not permitted",
    ),
    ("version: 1", "version: one", "version: one", "version", "whole number"),
    ("version: 1", "version: 0", "version: 0", "version", "greater than or equal to 1"),
    ("name: orders", "name: Orders 2", "name: Orders 2", "name", "pattern"),
    (
        "levels: [EC, GT, PE, SV]",
        "levels: [EC, EC, PE, SV]",
        "levels: [EC, EC",
        "columns.pais_cd.domain.levels",
        "the level 'EC' is listed twice: remove one",
    ),
    (
        "levels: [L, LM, LMI, LMV]",
        "levels: []",
        "levels: []",
        "columns.frecuencia_visitas_cd.domain.levels",
        "at least 1",
    ),
    (
        "levels: [L, LM, LMI, LMV]",
        "levels: [1, 2]",
        "levels: [1, 2]",
        "columns.frecuencia_visitas_cd.domain.levels.0",
        "text",
    ),
    (
        'regex: "C[0-9]{6,9}"',
        'regex: "C[0-9"',
        'regex: "C[0-9"',
        "columns.cliente_id.checks.0.pattern.regex",
        "not a regular expression",
    ),
    (
        "max: 2100-01-01",
        "max: 2000-01-01",
        "rule: range, min: 2015",
        "columns.fecha_pedido_dt.checks.0.range",
        "is above max",
    ),
    (
        "{rule: range, max: 2000, severity: warning}",
        "{rule: range, severity: warning}",
        "{rule: range, severity",
        "columns.facturacion_usd_val.checks.1.range",
        "needs min or max",
    ),
    (
        "{rule: range, max: 2000, severity: warning}",
        "{rule: range, max: 2000, severity: grave}",
        "severity: grave",
        "columns.facturacion_usd_val.checks.1.range.severity",
        "'error' or 'warning'",
    ),
    (
        "{rule: range, max: 2000, severity: warning}",
        "{rule: range, max: 2020-01-01}",
        "facturacion_usd_val:\n",
        "columns.facturacion_usd_val",
        "does not fit type double",
    ),
    (
        "min: 2015-01-01, max: 2100-01-01",
        "min: 2015",
        "  fecha_pedido_dt:\n",
        "columns.fecha_pedido_dt",
        "does not fit type date",
    ),
    (
        "{rule: range, max: 2000, severity: warning}",
        "{rule: limit, max: 2000}",
        "{rule: limit",
        "columns.facturacion_usd_val.checks.1",
        "'limit'",
    ),
    (
        "- {rule: range, min: 0}\n      - {rule: range, max: 2000",
        "- {rule: pattern, regex: a}\n      - {rule: range, max: 2000",
        "  facturacion_usd_val:\n",
        "columns.facturacion_usd_val",
        "a pattern needs type string",
    ),
    (
        "    decimals: 2\n    required: false",
        "    required: false",
        "  facturacion_usd_val:\n",
        "columns.facturacion_usd_val",
        "needs decimals",
    ),
    (
        "unit: products\n",
        "unit: products\n    normalise: [trim]\n",
        "  materiales_distintos_val:\n",
        "columns.materiales_distintos_val",
        "is for strings",
    ),
    (
        "unit: products\n",
        "unit: products\n    normalise: [day_of_timestamp]\n",
        "  materiales_distintos_val:\n",
        "columns.materiales_distintos_val",
        "is for dates",
    ),
    (
        "unit: products\n",
        "unit: products\n    domain: {levels: [a], closed: true}\n",
        "  materiales_distintos_val:\n",
        "columns.materiales_distintos_val",
        "the level 'a' is no value of type int64: write whole numbers",
    ),
    (
        "unit: boxes\n",
        "unit: boxes\n    domain: {levels: [1.5], closed: true}\n",
        "  cajas_fisicas:\n",
        "columns.cajas_fisicas",
        "needs type string or int64 or boolean or decimal or date, not double",
    ),
    (
        "unit: products\n",
        "unit: products\n    domain: {levels: [1, true], closed: true}\n",
        "  materiales_distintos_val:\n",
        "columns.materiales_distintos_val",
        "the level 'true' is no value of type int64",
    ),
    (
        "normalise: [trim, upper]",
        "normalise: [strip]",
        "normalise: [strip]",
        "columns.cliente_id.normalise.0",
        "'trim'",
    ),
    (
        "    nullable: {train: false, score: true}\n",
        "    nullable: {train: false, score: false}\n",
        "  canal_pedido_cd:\n",
        "columns.canal_pedido_cd",
        "not required for score but not nullable",
    ),
    (
        "    role: entity\n",
        "    role: entity\n    nullable: true\n",
        "  cliente_id:\n",
        "columns.cliente_id",
        "entity cannot be nullable",
    ),
    (
        "    role: entity\n",
        "    role: attribute\n",
        "  history:\n",
        "features.history",
        "a history needs a column with the role entity",
    ),
    ("    role: attribute\n", "    role: entity\n", "columns:\n", "columns", "exactly one column has the role entity"),
    (
        "    domain: {levels: [DIGITAL, TELEFONO, VENDEDOR], closed: {train: true, score: false}}\n",
        "",
        "  canal_pedido_cd:\n",
        "columns.canal_pedido_cd",
        "the target needs a domain",
    ),
    (
        "    type: date\n    role: timestamp\n",
        "    type: string\n    role: timestamp\n",
        "  fecha_pedido_dt:\n",
        "columns.fecha_pedido_dt",
        "date",
    ),
    (
        "columns: [pais_cd, region_comercial_txt]",
        "columns: [country, region_comercial_txt]",
        "- name: region_in_country",
        "rules.0",
        "no such column ['country']",
    ),
    (
        "      EC: [AMAZONIA",
        "      XX: [AMAZONIA",
        "- name: region_in_country",
        "rules.0",
        "['XX'] are not levels of pais_cd",
    ),
    (
        "EC: [AMAZONIA, COSTA",
        "EC: [AMAZONAS, COSTA",
        "- name: region_in_country",
        "rules.0",
        "['AMAZONAS'] are not levels",
    ),
    (
        "columns: [fecha_pedido_dt]",
        "columns: [pais_cd]",
        "- name: not_after_as_of",
        "rules.1",
        "is neither a date nor a time",
    ),
    (
        "limit: {train: 0.01, score: 0.5}",
        "limit: {train: 1.01, score: 0.5}",
        "limit: {train: 1.01",
        "quarantine.limit.train",
        "less than or equal to 1",
    ),
    (
        "limit: {train: 0.01, score: 0.5}",
        "limit: {train: 0.01}",
        "limit: {train: 0.01}",
        "quarantine.limit.score",
        "is missing",
    ),
    ("    - pais_cd\n", "    - pais\n", "    - pais\n", "features.attributes.0", "pais is not a column"),
    ("    - pais_cd\n", "    - cajas_fisicas\n", "    - cajas_fisicas\n", "features.attributes.0", "role attribute"),
    ("calendar: [day_of_week,", "calendar: [century,", "calendar: [century", "features.calendar.0", "'day_of_week'"),
    (
        "columns: [facturacion_usd_val, mat",
        "columns: [pais_cd, mat",
        "recipe: mean",
        "features.history.4.columns",
        "pais_cd is not a column with the role measure",
    ),
    ("smoothing: 3", "smoothing: 0", "smoothing: 0", "features.history.3.target_share.smoothing", "greater than 0"),
    ("{recipe: count}", "{recipe: sum}", "{recipe: sum}", "features.history.0", "'sum'"),
    (
        "history_lag_days: 0",
        "history_lag_days: -1",
        "history_lag_days: -1",
        "features.history_lag_days",
        "greater than or equal to 0",
    ),
    (
        "history_lag_days: 0",
        "history_lag_days: 10000",
        "history_lag_days: 10000",
        "features.history_lag_days",
        "with a lag of 10,000 days rows have no history: write at most 3,650 (10 years)",
    ),
    (
        "{train: 0.6, validation",
        "{train: 0.7, validation",
        "fractions: {train: 0.7",
        "split.fractions",
        "sum to 1.1, not 1",
    ),
    ("margin: 0.001", "margin: -0.001", "margin: -0.001", "promotion.margin", "greater than or equal to 0"),
    ("margin: 0.001", 'margin: "small"', 'margin: "small"', "promotion.margin", "number"),
    ("  margin: 0.001", "  margin: 0.001\n  tie: win", "tie: win", "promotion.tie", "not permitted"),
]


def write(folder: Path, text: str) -> Path:
    path = folder / "contract.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "at", "key", "words"), CONTRADICTIONS, ids=[f"{c[3]}:{c[4][:20]}" for c in CONTRADICTIONS]
)
def test_a_contradiction_is_refused_with_file_line_key_and_rule(
    tmp_path: Path, old: str, new: str, at: str, key: str, words: str
) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    line = text[: text.index(at)].count("\n") + 1
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_contract(path)
    lines = [result for result in str(raised.value).splitlines() if result.strip().startswith(f"{path}:{line}: {key}")]
    assert lines, f"no line for {path.name}:{line}: {key} in: {raised.value}"
    assert words in lines[0]


def test_every_fault_is_reported(tmp_path: Path) -> None:
    text = TEXT.replace("version: 1", "version: one").replace("margin: 0.001", "margin: -1")
    with pytest.raises(ConfigError, match=r"(?s)version.*promotion\.margin"):
        load_contract(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "not YAML"), ("", "keys with values"), ("- 1", "keys with values")]
)
def test_a_file_that_holds_no_contract(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_contract(write(tmp_path, text))


def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: the pipeline's file cannot be read"):
        load_contract(tmp_path / "nowhere.yaml")


def test_digest_is_of_the_content_and_not_of_the_layout(tmp_path: Path, contract: Contract) -> None:
    same = load_contract(write(tmp_path, "# another comment\n" + TEXT.replace("margin: 0.001", "margin:   0.001")))
    assert same == contract and same.digest() == contract.digest()
    other = load_contract(write(tmp_path, TEXT.replace("margin: 0.001", "margin: 0.002")))
    assert other.digest() != contract.digest()
    assert other.features_digest() == contract.features_digest()
    lagged = load_contract(write(tmp_path, TEXT.replace("history_lag_days: 0", "history_lag_days: 1")))
    assert lagged.features_digest() != contract.features_digest()


def test_roles_and_schema_are_as_stated(contract: Contract) -> None:
    assert len(contract.columns) == 14
    assert contract.classes == contract.columns[contract.target].domain.levels  # type: ignore[union-attr]
    schema = contract.arrow_schema()
    assert schema.names == list(contract.columns)
    assert schema.field(contract.timestamp).type == pa.date32()
    assert contract.named("entity", "timestamp", "target") == (contract.entity, contract.timestamp, contract.target)
    assert len(contract.named("measure")) == 3


def test_the_committed_json_schema_is_the_models_and_takes_the_contract() -> None:
    """Editors check contract files against it."""
    committed = (ORDERS.parents[1] / "pipeline.schema.json").read_text(encoding="utf-8")
    assert committed == json_schema(), "run: apex contract build"
    content = json.loads(json.dumps(yaml.safe_load(ORDERS.read_text(encoding="utf-8")), default=str))
    jsonschema.validate(content, json.loads(committed))
    content["columns"]["pais_cd"]["rolle"] = "attribute"
    with pytest.raises(jsonschema.ValidationError, match="rolle"):
        jsonschema.validate(content, json.loads(committed))
