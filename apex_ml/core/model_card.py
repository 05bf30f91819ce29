"""The description of a model version: its data, its metrics, and links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apex_ml.core.model_info import ModelInfo
from apex_ml.core.split import PARTS
from apex_ml.core.table_version import TableVersion
from apex_ml.wording import counted

DECISION = "\n### Decision\n"


@dataclass(frozen=True)
class Provenance:
    """Origin of a model. An address is empty where there is none: a step run on the command line has no Airflow run."""

    run: str
    data_url: str
    data_sha256: str
    files: int
    rows: int
    accepted: int
    quarantined: int
    superseded: int = 0
    """Rows whose key has a later row. The other rows are held back: they are not used for training."""
    has_dates: bool = True
    airflow_url: str = ""
    data_docs_url: str = ""
    tables: tuple[TableVersion, ...] = ()
    """The versions of the Delta and Iceberg tables that were read."""

    def tags(self) -> dict[str, str]:
        """Tags of a run and a version; empty addresses are left out."""
        tags = {
            "apex.data_url": self.data_url,
            "apex.airflow_run_url": self.airflow_url,
            "apex.data_docs_url": self.data_docs_url,
            "apex.tables": "; ".join(map(str, self.tables)),
        }
        return {name: value for name, value in tags.items() if value}


def model_card(
    provenance: Provenance,
    info: ModelInfo,
    parts: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, float],
    model: Mapping[str, str],
) -> str:
    """Markdown about a model version.

    `info` is the model's own record, `parts` that of the split (first, last, examples of each part). `model` holds
    names and values that are shown unchanged (candidate, features, …).
    """
    source = provenance
    dirty = ", with changes that are not committed" if info.dirty else ""
    commit = f"`{info.git_commit}`{dirty}" if info.git_commit else "unknown: not a checkout"
    links = [
        _link("Airflow run", source.airflow_url) or "no Airflow run: started on the command line",
        _link("Great Expectations: this validation", source.data_docs_url) or "no Data Docs",
    ]
    rows = [
        ("Raw data", f"`{source.data_url}`, {_count(source.files, 'file')}, sha256 `{source.data_sha256}`"),
        *(("Table", str(table)) for table in source.tables),
        ("Rows", _rows(source)),
        *((f"Part {name}", _part(source, parts[name])) for name in PARTS if name in parts),
        (
            "Point in time",
            f"{info.as_of}, split {info.split}{'' if info.promotable else ', not promotable'}",
        ),
        ("Contract", f"sha256 `{info.contract_sha256}`, features `{info.features_sha256}`"),
        ("Code", f"git {commit}, seed {info.seed}"),
        *((name.capitalize(), value) for name, value in model.items()),
    ]
    lines = [f"Apex run `{source.run}`. {' · '.join(links)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows]
    lines += ["", "| log loss | model | class prior | difference |", "|---|---|---|---|"]
    for part in ("validation", "test"):
        loss, prior = metrics[f"{part}_log_loss"], metrics[f"{part}_prior_log_loss"]
        lines.append(f"| {part} | {loss:.5f} | {prior:.5f} | {loss / prior - 1:+.2%} |")
    lines += ["", f"On test: ECE {metrics['test_ece']:.4f}, accuracy {metrics['test_accuracy']:.3f}."]
    return "\n".join(lines) + "\n"


def with_decision(card: str, promoted: bool, who: str, reasons: Sequence[str], report_url: str = "") -> str:
    """The description with the gate's decision as its last section, which replaces an earlier one."""
    verdict = f"{'Promoted' if promoted else 'Rejected'} by {who}:\n"
    listed = "".join(f"- {reason}\n" for reason in reasons)
    report = _link("Report", report_url)
    return card.partition(DECISION)[0] + f"{DECISION}\n{verdict}\n{listed}" + (report and f"\n{report}\n")


def with_links(card: str, pages: Mapping[str, str]) -> str:
    """The description with a last line of links, from their texts to their addresses."""
    return card + (f"\n{' · '.join(_link(text, url) for text, url in pages.items())}\n" if pages else "")


def _link(name: str, url: str) -> str:
    return f"[{name}]({url})" if url else ""


def _rows(source: Provenance) -> str:
    shown = f"{source.rows:,} read, {source.accepted:,} accepted, {source.quarantined:,} quarantined"
    held_back = source.rows - source.accepted - source.quarantined - source.superseded
    if source.superseded:
        shown += f", {source.superseded:,} superseded by a later row of their key"
    which = " of the newest day" if source.has_dates else ""
    return shown + (f", {held_back:,}{which} held back" if held_back else "")


def _part(source: Provenance, part: Mapping[str, Any]) -> str:
    rows = counted(part["examples"], "row")
    return f"{part['first']} – {part['last']}, {rows}" if source.has_dates else rows


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
