"""Great Expectations: build the committed project from the contract, and run it on an accepted batch.

A run never writes to the project in the checkout. It runs a copy under the state folder, where the results and Data
Docs stay. The functions import Great Expectations themselves, as the import takes seconds.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import USES, Use
from apex_ml.contract.pipeline import Pipeline
from apex_ml.contract.suites import as_of_parameters, columns_as_text, expectations, suite_name
from apex_ml.core.features import value_texts
from apex_ml.json_text import json_text
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.sql.accepted_rows import sample_rows

logger = logging.getLogger(__name__)
PROJECT = CODE_ROOT / "great_expectations"
OWN_PIPELINES = CODE_ROOT / "pipelines"
"""The pipelines that the committed project is built from."""
SOURCE = "accepted"
NAMESPACE = uuid.UUID("6f0a54d2-3a6e-4f0e-9b51-0d8a6a3c2f10")
_CONFIG = """\
# Generated from the contract by `apex contract build`; edit the contract instead.
config_version: 4.0
config_variables_file_path: uncommitted/config_variables.yml
plugins_directory: plugins/
analytics_enabled: false
data_context_id: {context_id}
progress_bars:
  globally: false
  metric_calculations: false
stores:
  expectations_store:
    class_name: ExpectationsStore
    store_backend:
      class_name: TupleFilesystemStoreBackend
      suppress_store_backend_id: true
      base_directory: expectations/
  validation_results_store:
    class_name: ValidationResultsStore
    store_backend:
      class_name: TupleFilesystemStoreBackend
      suppress_store_backend_id: true
      base_directory: uncommitted/validations/
  checkpoint_store:
    class_name: CheckpointStore
    store_backend:
      class_name: TupleFilesystemStoreBackend
      suppress_store_backend_id: true
      base_directory: checkpoints/
  validation_definition_store:
    class_name: ValidationDefinitionStore
    store_backend:
      class_name: TupleFilesystemStoreBackend
      suppress_store_backend_id: true
      base_directory: validation_definitions/
expectations_store_name: expectations_store
validation_results_store_name: validation_results_store
checkpoint_store_name: checkpoint_store
data_docs_sites:
  local_site:
    class_name: SiteBuilder
    show_how_to_buttons: false
    store_backend:
      class_name: TupleFilesystemStoreBackend
      base_directory: uncommitted/data_docs/local_site/
    site_index_builder:
      class_name: DefaultSiteIndexBuilder
"""


@dataclass(frozen=True)
class BatchVerdict:
    """The result of the expectations: one line a failed expectation, by severity, and the number of checked rows."""

    evaluated: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    page: Path
    rows: int = 0
    of_rows: int = 0

    @property
    def rows_in_words(self) -> str:
        """The number of checked rows, in words."""
        part = f"a sample of {self.rows:,} of {self.of_rows:,} accepted rows; row checks saw every row"
        return part if self.rows < self.of_rows else f"all {self.rows:,} accepted rows"


def make_suite(contract: Contract, use: Use) -> Any:
    """The suite of a use, not yet in any project."""
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    import great_expectations as gx

    suite = gx.ExpectationSuite(name=suite_name(contract, use))
    for expectation in expectations(contract, use):
        severity = "critical" if expectation.severity == "error" else "warning"
        configured = ExpectationConfiguration(type=expectation.type, kwargs=expectation.kwargs, severity=severity)
        # add_expectation_configuration would replace an earlier one of the same type on the same column
        suite.add_expectation(configured.to_domain_obj())
    return suite


def build_project(contracts: Sequence[Contract], folder: Path = PROJECT) -> list[Path]:
    """Write the project of contracts: configuration, suites, validation definitions, checkpoints; ids are stable.

    Returns the files. Files in the folder that are no longer generated are removed; `uncommitted/` is left alone.
    """
    from great_expectations.checkpoint import UpdateDataDocsAction

    import great_expectations as gx

    with tempfile.TemporaryDirectory(prefix="apex-gx-") as name:
        temporary = Path(name)
        (temporary / "great_expectations.yml").write_text(_CONFIG.format(context_id=uuid.uuid5(NAMESPACE, "apex")))
        (temporary / "uncommitted").mkdir()
        (temporary / "uncommitted" / "config_variables.yml").write_text("{}\n")
        context = gx.get_context(mode="file", context_root_dir=str(temporary))
        source = context.data_sources.add_pandas(SOURCE)
        for contract, use in product(contracts, USES):
            label = suite_name(contract, use)
            suite = context.suites.add(make_suite(contract, use))
            batch = source.add_dataframe_asset(label).add_batch_definition_whole_dataframe("batch")
            definition = context.validation_definitions.add(
                gx.ValidationDefinition(name=label, data=batch, suite=suite)
            )
            context.checkpoints.add(
                gx.Checkpoint(
                    name=label,
                    validation_definitions=[definition],
                    actions=[UpdateDataDocsAction(name="data_docs")],
                    result_format="SUMMARY",
                )
            )
        files = [p for p in sorted(temporary.rglob("*")) if p.is_file() and "uncommitted" not in p.parts]
        files = [p for p in files if p.suffix in (".json", ".yml")]
        texts = {str(p.relative_to(temporary)): p.read_text(encoding="utf-8") for p in files}
    texts = _with_stable_ids(texts)
    for part in ("expectations", "checkpoints", "validation_definitions"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for relative, text in texts.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    (folder / ".gitignore").write_text("uncommitted/\n")
    return [folder / relative for relative in texts]


def _with_stable_ids(texts: dict[str, str]) -> dict[str, str]:
    """Replace every random id by one derived from its place, so that the same contract gives the same files."""
    pattern = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
    renamed: dict[str, str] = {}
    # the shared parts get the name of a file that all pipelines have
    for name in sorted(texts, key=lambda name: ("/" in name, name)):
        for place, random_id in enumerate(pattern.findall(texts[name])):
            renamed.setdefault(random_id, str(uuid.uuid5(NAMESPACE, f"{name}:{place}")))
    return {name: pattern.sub(lambda m: renamed[m.group()], text) for name, text in texts.items()}


def docs_index(settings: Settings, pipeline: str) -> Path:
    """Front page of the Data Docs of a pipeline."""
    return _project(settings, pipeline) / "uncommitted" / "data_docs" / "local_site" / "index.html"


def _project(settings: Settings, pipeline: str) -> Path:
    return settings.state / "great_expectations" / pipeline


def _refresh_copy(settings: Settings, pipeline: Pipeline) -> Path:
    """Update the copy of the committed project, which is built from the pipelines beside the code.

    For a pipeline that it does not have the copy is built from its contract.
    """
    copy = _project(settings, pipeline.name)
    copy.mkdir(parents=True, exist_ok=True)
    suite = PROJECT / "expectations" / f"{suite_name(pipeline.contract, 'train')}.json"
    if pipeline.file.resolve().is_relative_to(OWN_PIPELINES) and suite.exists():
        for part in ("expectations", "checkpoints", "validation_definitions"):
            shutil.rmtree(copy / part, ignore_errors=True)
            shutil.copytree(PROJECT / part, copy / part)
        shutil.copy2(PROJECT / "great_expectations.yml", copy / "great_expectations.yml")
    else:
        build_project([pipeline.contract], copy)
    variables = copy / "uncommitted" / "config_variables.yml"
    variables.parent.mkdir(exist_ok=True)
    if not variables.exists():
        variables.write_text("{}\n")
    return copy


def frame_of(contract: Contract, table: pa.Table) -> Any:
    """The pandas frame for the expectations."""
    as_text = columns_as_text(contract)
    for index, field in enumerate(table.schema):
        values = table.column(index)
        if field.name in as_text:
            table = table.set_column(index, field.name, value_texts(contract.columns[field.name], values))
        elif pa.types.is_date(field.type):  # pandas would hold dates as Python objects
            table = table.set_column(index, field.name, values.cast(pa.timestamp("s")))
        elif pa.types.is_decimal(field.type):
            table = table.set_column(index, field.name, values.cast(pa.float64()))
        elif pa.types.is_timestamp(field.type) and field.type.tz:
            table = table.set_column(index, field.name, values.cast(pa.timestamp("us", "UTC")))
    return table.to_pandas(split_blocks=True, self_destruct=True)


def rows_to_check(settings: Settings, pipeline: Pipeline, accepted: Path) -> tuple[pa.Table, int]:
    """The accepted rows, or a sample of too many by the hash of each row's place, and the number of all rows."""
    files = sorted(accepted.glob("*.parquet"))
    of_rows = sum(pq.read_metadata(path).num_rows for path in files)
    limit = pipeline.options.validation.expectation_rows
    if of_rows <= limit:
        return ds.dataset(accepted, format="parquet").to_table(), of_rows
    below = int(2**64 * limit / of_rows)
    with engine.connect(settings) as con, engine.errors_name("the accepted rows"):
        table = con.sql(sample_rows(pipeline.contract, files, below)).to_arrow_table()
    logger.info("expectations_sampled rows=%s of=%s", table.num_rows, of_rows)
    return table, of_rows


def check_batch(
    settings: Settings, pipeline: Pipeline, use: Use, accepted: Path, run: str, as_of: date
) -> BatchVerdict:
    """Run the committed checkpoint of a use on the accepted rows of a folder and rebuild the Data Docs.

    Great Expectations holds its rows in memory, 400 bytes each. It checks a sample of a batch that is larger than the
    option `expectation_rows`, the same sample each time.
    """
    import great_expectations as gx

    table, of_rows = rows_to_check(settings, pipeline, accepted)
    rows = table.num_rows
    frame = frame_of(pipeline.contract, table)
    del table
    context = gx.get_context(mode="file", context_root_dir=str(_refresh_copy(settings, pipeline)))
    label = suite_name(pipeline.contract, use)
    result = context.checkpoints.get(label).run(
        batch_parameters={"dataframe": frame},
        expectation_parameters=as_of_parameters(pipeline.contract, as_of),
        run_id=gx.RunIdentifier(run_name=run),
    )
    errors: list[str] = []
    warnings: list[str] = []
    evaluated = 0
    page = docs_index(settings, pipeline.name)
    for key, validation in result.run_results.items():
        # the page of this validation; the index loads scripts from the internet, and is empty without them
        for site in context.get_docs_sites_urls(resource_identifier=key):
            page = Path(unquote(urlparse(site["site_url"] or page.as_uri()).path))
        for outcome in validation.results:
            evaluated += 1
            if not outcome.success:
                config = outcome.expectation_config
                grave = config is None or str(getattr(config.severity, "value", config.severity)) == "critical"
                (errors if grave else warnings).append(_line(outcome))
    return BatchVerdict(evaluated, tuple(errors), tuple(warnings), page, rows, of_rows)


def name_source(
    settings: Settings, pipeline: Pipeline, verdict: BatchVerdict, run: str, raw: str, data_sha256: str
) -> None:
    """Add the source of the data, and links to the Airflow run and the model in MLflow, to a validation's page."""
    page = verdict.page
    if not page.is_file():
        return
    model = f"{settings.mlflow_address}/#/models/{quote(pipeline.model_name)}"
    links = [(settings.origin, "Airflow run"), (model, f"versions of {pipeline.model_name} in MLflow")]
    anchors = [f'<a href="{escape(u)}" target="_blank" rel="noopener">{escape(text)}</a>' for u, text in links if u]
    parts = [
        f"Apex run {escape(run)}",
        verdict.rows_in_words,
        f"raw data {escape(raw)}, sha256 <code>{data_sha256}</code>",
        *anchors,
    ]
    bar = f'<div class="alert alert-secondary m-0" id="apex-lineage">{" · ".join(parts)}</div>'
    text = page.read_text(encoding="utf-8")
    write_atomically(page, re.sub(r"<body[^>]*>", lambda body: body[0] + bar, text, count=1).encode())


def _line(outcome: Any) -> str:
    """One line about a failed expectation: its column, type and arguments, and the observed values."""
    config = outcome.expectation_config
    kwargs = {k: v for k, v in config.kwargs.items() if k not in ("batch_id",)}
    column = kwargs.pop("column", kwargs.pop("column_A", "the table"))
    result = outcome.result or {}
    observed = {k: result[k] for k in ("unexpected_count", "partial_unexpected_list", "observed_value") if k in result}
    raised = [v.get("exception_message", "") for v in (outcome.exception_info or {}).values() if isinstance(v, dict)]
    shown = json_text(observed, default=str, ensure_ascii=False)[:300] if observed else "; ".join(raised)[:300]
    return f"  {column}: {config.type} {json_text(kwargs, default=str, ensure_ascii=False)[:200]} → {shown}"
