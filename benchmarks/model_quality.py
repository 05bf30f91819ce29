"""Models on public tables beside what people use today, on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.development import Development, develop
from apex_ml.core.evaluation import row_losses
from apex_ml.core.features import feature_columns, kind_of
from apex_ml.core.uncertainty import Clusters, bootstrap_interval
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.trial_run import TrialRun, try_pipeline
from apex_ml.settings import Settings
from benchmarks.public_tables import TABLES, PublicTable
from benchmarks.quality_peers import Scores, score_peers
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import APEX, Scene, clean_environment, run_measured

MAX_BEHIND, MAX_SELECTION_COST = 0.5, 0.2
"""Percent of the log loss: behind the better peer, and of the selection beside all features."""
MAX_EXAMPLES = 100_000
THREADS = 2


@dataclass(frozen=True)
class Cost:
    """What a choice of features costs on the test rows: percent of the log loss with other ones, below 0 a gain.

    `low` and `high` are the ends of the 95 % interval; `beside` is the log loss with the other features.
    """

    percent: float
    low: float
    high: float
    beside: float

    @classmethod
    def of(cls, chosen: np.ndarray, others: np.ndarray, entities: np.ndarray, seed: int) -> Cost:
        """From the losses of the same rows, (n,) each, with the chosen and with the other features."""
        percent = 100 / others.mean()
        low, high = bootstrap_interval(Clusters.of(chosen - others, entities), seed)
        difference = float((chosen - others).mean())
        return cls(percent * difference, percent * low, percent * high, float(others.mean()))


@dataclass(frozen=True)
class Compared:
    """The scores of one table by what made them."""

    table: PublicTable
    rows: int
    features: tuple[str, ...]
    scores: dict[str, Scores]
    selection: Cost
    """Beside all features, before calibration."""
    history: Cost | None
    """Beside Apex without the history; None where there is none."""

    @property
    def behind(self) -> float:
        """Percent of log loss by which Apex is behind the better peer; negative where it is ahead."""
        best = min(scores.log_loss for name, scores in self.scores.items() if name != "Apex")
        return 100 * (self.scores["Apex"].log_loss / best - 1)


@measurement
def model_quality(scene: Scene) -> Iterator[Row]:
    """Log loss on public tables beside XGBoost and HistGradientBoosting, each with its own categories."""
    for table in TABLES:
        if not table.is_here:
            yield Row(f"{table.name}: left out", 0.0, "", None, None, f"`make bench-quality` gets {table.archive}")
            continue
        compared = compare(table, scene.folder / table.name)
        yield from rows_of(compared)


def rows_of(compared: Compared) -> Iterator[Row]:
    """What one table shows."""
    name = compared.table.name
    for peer, scores in compared.scores.items():
        note = f"accuracy {scores.accuracy:.4f}, AUC {scores.auc:.4f}, {scores.seconds:.1f} s"
        yield Row(f"{name}: log loss of {peer}", scores.log_loss, "nats", None, None, note)
    best = min((s.log_loss, peer) for peer, s in compared.scores.items() if peer != "Apex")
    note = f"{compared.rows:,} examples, {len(compared.features)} features"
    yield Row(f"{name}: Apex behind the better peer", compared.behind, "%", MAX_BEHIND, Beside(best[1], best[0]), note)
    cost, beside = compared.selection, Beside("all features", compared.selection.beside)
    note = f"before calibration; estimate {cost.percent:.2f} %, up to {cost.high:.2f} %"
    yield Row(f"{name}: cost of the selection, 95 % lower bound", cost.low, "%", MAX_SELECTION_COST, beside, note)
    if (history := compared.history) is not None:
        beside, note = Beside("without history", history.beside), f"95 %: {history.low:.2f} to {history.high:.2f} %"
        yield Row(f"{name}: log loss with history beside without", history.percent, "%", 0.0, beside, note)


def compare(table: PublicTable, folder: Path) -> Compared:
    """Make a pipeline for the table by `apex init`, train as `apex try` does, and fit the peers on the same rows."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    pq.write_table(pa.Table.from_pandas(table.read(), preserve_index=False), raw / f"{table.name}.parquet")
    env = clean_environment(APEX_HOME=str(folder), APEX_PIPELINES=str(folder / "pipelines"))
    run_measured([*APEX, "init", table.name, "--from", str(raw), *table.roles(), "--yes"], env)
    file = folder / "pipelines" / table.name / "pipeline.yaml"
    _add_attributes(file, table.also)
    _set_lag(file, table.lag_hours)
    settings = Settings.load(home=folder, pipelines=folder / "pipelines", pipeline=table.name, threads=THREADS)
    pipeline = load_pipeline(settings)
    run = try_pipeline(settings, pipeline, raw, lambda checked: None, max_examples=MAX_EXAMPLES)
    contract = pipeline.contract
    columns = feature_columns(contract)
    known_before = [c.name for c in columns if kind_of(contract, c.name) != "history"]
    scores = {
        "Apex": _scores(run),
        **score_peers(run.tables, known_before, len(contract.classes), seed=run.options.seed, threads=THREADS),
    }
    own = [c for c in columns if c.name in known_before]
    entities, history = run.tables["test"].entities, None
    if len(own) < len(columns):
        without = _developed(run, own, contract.classes, run.options.selection)
        history = Cost.of(_losses(run, run.development), _losses(run, without), entities, run.options.seed)
    every = _developed(run, columns, contract.classes, "none")
    cost = Cost.of(_raw_losses(run, run.development), _raw_losses(run, every), entities, run.options.seed)
    return Compared(
        table,
        sum(len(part.y) for part in run.tables.values()),
        run.development.model.encoder.names,
        scores,
        cost,
        history,
    )


def _add_attributes(file: Path, names: tuple[str, ...]) -> None:
    """List more attributes as features, as the comments of a new pipeline's file say."""
    lines = file.read_text(encoding="utf-8").splitlines()
    place = lines.index("  attributes:") + 1
    listed = [f"    - {name}" for name in names if f"    - {name}" not in lines]
    file.write_text("\n".join([*lines[:place], *listed, *lines[place:]]) + "\n", encoding="utf-8")


def _set_lag(file: Path, hours: int | None) -> None:
    """Write another lag of the history, as the comments of a new pipeline's file say."""
    text, proposed = file.read_text(encoding="utf-8"), "  history_lag_hours: 24\n"
    if hours is None:
        return
    if proposed not in text:
        raise ValueError(f"{file}: it has no line {proposed.strip()!r}")
    file.write_text(text.replace(proposed, f"  history_lag_hours: {hours}\n"), encoding="utf-8")


def _scores(run: TrialRun) -> Scores:
    """Those of the model of the trial run."""
    test, done = run.tables["test"], run.development
    return Scores.of(done.model.probabilities(test.table), test.y, run.seconds)


def _developed(
    run: TrialRun, columns: Sequence[FeatureColumn], classes: tuple[str, ...], selection: str
) -> Development:
    """A model of these features, from the same rows."""
    options = replace(run.options, selection=selection)
    return develop(run.tables, tuple(columns), classes, (), options, run.development.model.info)


def _losses(run: TrialRun, done: Development) -> np.ndarray:
    """Log loss of each test row, (n,)."""
    test = run.tables["test"]
    return row_losses(done.model.probabilities(test.table), test.y)


def _raw_losses(run: TrialRun, done: Development) -> np.ndarray:
    """Log loss of each test row, of the probabilities before calibration, (n,)."""
    test = run.tables["test"]
    return row_losses(done.model.raw_probabilities(test.table), test.y)
