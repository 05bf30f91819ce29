"""Great Expectations: build the committed project from the contract, and run it on an accepted batch.

The project in the checkout is never written at run time: a copy under the state folder is run, and its results and Data
Docs stay there. Great Expectations takes seconds to import, so that it is imported inside the functions.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from datetime import date
from html import escape
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
from apex_ml.contract.suites import expectations, suite_name
from apex_ml.json_text import json_text
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.sql.quote import identifiers, literal

logger = logging.getLogger(__name__)
PROJECT = CODE_ROOT / "great_expectations"
OWN_CONTRACT = CODE_ROOT / "apex_ml" / "contract" / "orders.yaml"
"""The contract that the committed project is built from."""
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
    """What the expectations say of a batch: one line a failed expectation, by severity; and of how many rows."""

    evaluated: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    page: Path
    rows: int = 0
    of_rows: int = 0

    @property
    def seen(self) -> str:
        """How many rows were judged, in words."""
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


def build_project(contract: Contract, folder: Path = PROJECT) -> list[Path]:
    """Write the project of a contract: configuration, suites, validation definitions, checkpoints; ids are stable.

    Returns the files. What stood in the folder and is no longer generated is removed, `uncommitted/` is left alone.
    """
    from great_expectations.checkpoint import UpdateDataDocsAction

    import great_expectations as gx

    with tempfile.TemporaryDirectory(prefix="apex-gx-") as name:
        temporary = Path(name)
        (temporary / "great_expectations.yml").write_text(
            _CONFIG.format(context_id=uuid.uuid5(NAMESPACE, contract.name))
        )
        (temporary / "uncommitted").mkdir()
        (temporary / "uncommitted" / "config_variables.yml").write_text("{}\n")
        context = gx.get_context(mode="file", context_root_dir=str(temporary))
        source = context.data_sources.add_pandas(SOURCE)
        for use in USES:
            label = suite_name(contract, use)
            suite = context.suites.add(make_suite(contract, use))
            batch = source.add_dataframe_asset(use).add_batch_definition_whole_dataframe("batch")
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
    """Replace every random id by one made from its place, so that the same contract gives the same files."""
    pattern = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
    renamed: dict[str, str] = {}
    for name in sorted(texts):
        for place, found in enumerate(pattern.findall(texts[name])):
            renamed.setdefault(found, str(uuid.uuid5(NAMESPACE, f"{name}:{place}")))
    return {name: pattern.sub(lambda m: renamed[m.group()], text) for name, text in texts.items()}


def docs_index(settings: Settings) -> Path:
    """Front page of the Data Docs."""
    return _project(settings) / "uncommitted" / "data_docs" / "local_site" / "index.html"


def _project(settings: Settings) -> Path:
    return settings.state / "great_expectations"


def _refresh_copy(settings: Settings, contract: Contract) -> Path:
    """Bring the copy that is run to the state of the committed project, which is that of the contract beside the code.

    For another contract (APEX_CONTRACT) the copy is built from it.
    """
    copy = _project(settings)
    copy.mkdir(parents=True, exist_ok=True)
    if settings.contract.resolve() == OWN_CONTRACT:
        for part in ("expectations", "checkpoints", "validation_definitions"):
            shutil.rmtree(copy / part, ignore_errors=True)
            shutil.copytree(PROJECT / part, copy / part)
        shutil.copy2(PROJECT / "great_expectations.yml", copy / "great_expectations.yml")
    else:
        build_project(contract, copy)
    variables = copy / "uncommitted" / "config_variables.yml"
    variables.parent.mkdir(exist_ok=True)
    if not variables.exists():
        variables.write_text("{}\n")
    return copy


def frame_of(table: pa.Table) -> Any:
    """The pandas frame that the expectations are run on."""
    for index, field in enumerate(table.schema):
        if pa.types.is_date(field.type):  # pandas would hold dates as Python objects
            table = table.set_column(index, field.name, table.column(index).cast(pa.timestamp("s")))
    return table.to_pandas(split_blocks=True, self_destruct=True)


def rows_to_judge(settings: Settings, contract: Contract, accepted: Path) -> tuple[pa.Table, int]:
    """The accepted rows, of too many a sample by the hash of each row's place; and how many there are in all."""
    files = sorted(accepted.glob("*.parquet"))
    of_rows = sum(pq.read_metadata(path).num_rows for path in files)
    if of_rows <= settings.expectation_rows:
        return ds.dataset(accepted, format="parquet").to_table(), of_rows
    names, columns = ", ".join(literal(str(path)) for path in files), identifiers(contract.columns)
    largest = int(2**64 * settings.expectation_rows / of_rows)
    with engine.connect(settings) as con, engine.errors_name("the accepted rows"):
        table = con.sql(
            f"SELECT {columns} FROM read_parquet([{names}], file_row_number = true)"
            f" WHERE hash(file_index, file_row_number) < {largest}"
        ).to_arrow_table()
    logger.info("expectations_sampled rows=%s of=%s", table.num_rows, of_rows)
    return table, of_rows


def check_batch(
    settings: Settings, contract: Contract, use: Use, accepted: Path, run: str, as_of: date
) -> BatchVerdict:
    """Run the committed checkpoint of a use on the accepted rows of a folder and rebuild the Data Docs.

    Great Expectations holds its rows in memory, 400 bytes each: of a batch larger than the setting `expectation_rows`
    it judges a sample, the same one each time.
    """
    import great_expectations as gx

    table, of_rows = rows_to_judge(settings, contract, accepted)
    rows = table.num_rows
    frame = frame_of(table)
    del table
    context = gx.get_context(mode="file", context_root_dir=str(_refresh_copy(settings, contract)))
    label = suite_name(contract, use)
    result = context.checkpoints.get(label).run(
        batch_parameters={"dataframe": frame},
        expectation_parameters={"as_of": f"{as_of.isoformat()}T00:00:00"},
        run_id=gx.RunIdentifier(run_name=run),
    )
    errors: list[str] = []
    warnings: list[str] = []
    evaluated = 0
    page = docs_index(settings)
    for key, validation in result.run_results.items():
        # the page of this very validation; the index, drawn by scripts from the net, is of no use without one
        for site in context.get_docs_sites_urls(resource_identifier=key):
            page = Path(unquote(urlparse(site["site_url"] or page.as_uri()).path))
        for outcome in validation.results:
            evaluated += 1
            if not outcome.success:
                config = outcome.expectation_config
                grave = config is None or str(getattr(config.severity, "value", config.severity)) == "critical"
                (errors if grave else warnings).append(_line(outcome))
    return BatchVerdict(evaluated, tuple(errors), tuple(warnings), page, rows, of_rows)


def name_source(settings: Settings, verdict: BatchVerdict, run: str, raw: str, data_sha256: str) -> None:
    """Put on top of a validation's page what was validated, and links to the Airflow run and the model in MLflow."""
    page = verdict.page
    if not page.is_file():
        return
    model = f"{settings.mlflow_address}/#/models/{quote(settings.model_name)}"
    links = [(settings.origin, "Airflow run"), (model, f"versions of {settings.model_name} in MLflow")]
    anchors = [f'<a href="{escape(u)}" target="_blank" rel="noopener">{escape(text)}</a>' for u, text in links if u]
    told = [
        f"Apex run {escape(run)}",
        verdict.seen,
        f"raw data {escape(raw)}, sha256 <code>{data_sha256}</code>",
        *anchors,
    ]
    bar = f'<div class="alert alert-secondary m-0" id="apex-lineage">{" · ".join(told)}</div>'
    text = page.read_text(encoding="utf-8")
    write_atomically(page, re.sub(r"<body[^>]*>", lambda found: found[0] + bar, text, count=1).encode())


def _line(outcome: Any) -> str:
    """One line about a failed expectation: what was expected of which column, and what was found."""
    config = outcome.expectation_config
    kwargs = {k: v for k, v in config.kwargs.items() if k not in ("batch_id",)}
    column = kwargs.pop("column", kwargs.pop("column_A", "the table"))
    result = outcome.result or {}
    found = {k: result[k] for k in ("unexpected_count", "partial_unexpected_list", "observed_value") if k in result}
    raised = [v.get("exception_message", "") for v in (outcome.exception_info or {}).values() if isinstance(v, dict)]
    told = json_text(found, default=str, ensure_ascii=False)[:300] if found else "; ".join(raised)[:300]
    return f"  {column}: {config.type} {json_text(kwargs, default=str, ensure_ascii=False)[:200]} → {told}"
