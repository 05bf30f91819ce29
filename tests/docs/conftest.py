"""A database with a little of everything in it, for the queries of the documents."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg2
import pytest


class ReaderDatabase:
    """A migrated database with one drop scored by one promoted model, read as apex_reader."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = urls

    def _connect(self, url: str) -> Any:
        return closing(psycopg2.connect(url))

    def write(self, statement: str) -> None:
        with self._connect(self.urls["database_url"]) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def read(self, query: str) -> list[tuple[Any, ...]]:
        with self._connect(self.urls["reader_database_url"]) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows


SEED = """
INSERT INTO orders.drops (sha256, name, bytes, rows, state, reason, deliveries) VALUES
    (repeat('a', 64), 'monday.parquet', 1000, 3, 'done', NULL, 2),
    (repeat('b', 64), 'monday.parquet', 1000, 3, 'done', NULL, 1),
    (repeat('c', 64), 'broken.parquet', 10, NULL, 'failed', 'broken.parquet: not a parquet file (10 bytes)', 1);
UPDATE orders.drops SET superseded_by = 2 WHERE drop_id = 1;
INSERT INTO orders.scoring_runs (drop_id, step_run, model_name, model_version, mlflow_run_id, feature_snapshot,
    snapshot_as_of, rows_in, rows_scored, rows_quarantined, success_rate, ms_total, ms_check, ms_features, ms_predict,
    ms_write, row_us_mean, row_us_p50, row_us_p95, row_us_p99, confidence_mean, confidence_median, started_at,
    finished_at)
SELECT drop_id, 'score-1', 'digital_orders_xgboost', 1, 'f0', repeat('d', 64), '2024-08-24', 3, 2, 1, 0.67, 5, 1, 1, 1,
    2, 1, 1, 1, 1, 0.6, 0.6, now(), now()
FROM orders.drops WHERE state = 'done' ORDER BY drop_id;
INSERT INTO orders.scoring_run_classes SELECT run_id, 'DIGITAL', 2, 0.6 FROM orders.scoring_runs;
SELECT orders.take_run_id(false);
INSERT INTO orders.scored
SELECT run_id, row_nr, 'C00000' || row_nr, '2024-08-24', 'DIGITAL', 0.6, 0.1, 0.3, 0.6, 1, now()
FROM orders.scoring_runs, generate_series(1, 2) AS row_nr;
INSERT INTO orders.quarantined_rows (source_kind, source_sha256, source_name, row_nr, reasons, row) VALUES
    ('drop', repeat('b', 64), 'monday.parquet', 0, '[{"column": "day", "value": "?", "rule": "not null"}]', '{}'),
    ('raw', repeat('e', 64), 'part-0.parquet', 7, '[{"column": "day", "value": "?", "rule": "not null"}]', '{}');
INSERT INTO orders.model_versions (model_name, model_version, mlflow_run_id, data_sha256, contract_sha256, git_commit,
    step_run, about)
VALUES ('digital_orders_xgboost', 1, 'f0', repeat('f', 64), repeat('0', 64), repeat('1', 40), 'retrain-1', '{}');
INSERT INTO orders.promotions (model_name, action, to_version, state, step_run, who, reasons, evidence, data_sha256,
    contract_sha256, done_at)
VALUES ('digital_orders_xgboost', 'promote', 1, 'done', 'retrain-1', 'airflow', '{no champion}',
    '{"challenger_log_loss": 0.98, "prior_log_loss": 1.03, "holdout_rows": 30000}', repeat('f', 64),
    repeat('0', 64), now());
INSERT INTO orders.shadow_runs (run_id, model_version, rows_scored, state, step_run)
SELECT run_id, 2, 2, 'done', 'shadow-1' FROM orders.scoring_runs;
INSERT INTO orders.shadow_scores SELECT run_id, 2, row_nr, 'DIGITAL', 0.6, 0.1, 0.3 FROM orders.scored;
INSERT INTO orders.drift (scope, subject, day, feature, kind, reference, rows, reference_rows, psi, effect, p_value,
    q_value, drifted) VALUES
    ('drop', '2', '2024-08-24', 'day', 'attribute', 'the training examples', 2, 100, 0.3, 0.5, 0, 0, true);
INSERT INTO orders.online_profiles (day, model_name, model_version, feature_snapshot, answers, profile)
VALUES ('2024-08-24', 'digital_orders_xgboost', 1, repeat('d', 64), 2, '{}');
INSERT INTO orders.model_quality (model_name, model_version, week, scored, outcomes, log_loss, prior_log_loss, worse)
VALUES ('digital_orders_xgboost', 1, '2024-08-19', 2, 1, 0.98, 1.03, false);
INSERT INTO orders.alerts (kind, subject, message, resolved_at, closed_by, closed_reason)
VALUES ('bad_drop', 'broken.parquet', 'broken.parquet: not a parquet file (10 bytes)', now(), 'ann', 'a test file');
"""


@pytest.fixture(scope="session")
def reader(lasting_databases: Any) -> ReaderDatabase:
    """Read as people do, after a little was written."""
    database = ReaderDatabase(lasting_databases.migrated())
    database.write(SEED)
    return database
