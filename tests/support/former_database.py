"""A database as the first edition leaves it: its tables are in the schema apex, and have rows."""

from __future__ import annotations

import hashlib
from contextlib import closing

import psycopg2

from apex_ml.adapters.postgres.migrations import migration_files
from apex_ml.settings import CODE_ROOT, Settings

LAST_MIGRATION = 19
"""The newest numbered file of the first edition."""
GENERATED = CODE_ROOT / "tests" / "support" / "former_generated.sql"
SHA = hashlib.sha256(b"first").hexdigest()
"""Key of a drop that is scored."""

TABLES = """
CREATE SCHEMA IF NOT EXISTS apex;
GRANT USAGE ON SCHEMA apex TO apex_reader;
CREATE TABLE apex.migrations (number integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE apex.generated (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now());
COMMENT ON TABLE apex.generated IS
    'One row: the sha256 of the statements that were last generated from the contract and applied.';
INSERT INTO apex.generated (sha256) VALUES ('of the first edition');
"""
GRANTS = """
GRANT SELECT ON apex.scored_orders_current, apex.channel_mix_daily, apex.confidence_daily, apex.lineage,
    apex.shadow_comparison, apex.drop_outcomes, apex.outcome_coverage, apex.online_answers TO apex_reader;
"""
ROWS = """
INSERT INTO apex.drops (sha256, name, bytes, rows, state)
SELECT encode(sha256(name::bytea), 'hex'), name, 1, 40, 'done' FROM unnest(ARRAY['first', 'second', 'third']) AS name;
UPDATE apex.drops SET superseded_by = 3 WHERE drop_id = 2;
SELECT apex.take_run_id(false), apex.take_run_id(false);
SELECT apex.take_run_id(true);
CREATE TABLE apex.scored_orders_1001 (LIKE apex.scored_orders INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
INSERT INTO apex.scoring_runs (run_id, drop_id, step_run, model_name, model_version, mlflow_run_id, feature_snapshot,
    snapshot_as_of, rows_in, rows_scored, rows_quarantined, ms_total, ms_check, ms_features, ms_predict, ms_write,
    started_at, finished_at)
OVERRIDING SYSTEM VALUE
SELECT run_id, drop_id, 'score', 'digital_orders_xgboost', 1, 'm', 's', '2024-08-24', 40, 40, 0, 1, 1, 1, 1, 1, now(),
       now() FROM (VALUES (1, 1), (2, 2), (1001, 3)) AS runs (run_id, drop_id);
INSERT INTO apex.scoring_run_classes SELECT run_id, 'DIGITAL', 40, 0.5, 0.5 FROM apex.scoring_runs;
INSERT INTO apex.scored_orders_1001
SELECT 1001, n, 'c' || n, date '2024-08-24' + n % 3, 'DIGITAL', 0.5, 0.3, 0.2, 0.5, 1, now()
FROM generate_series(0, 39) AS n;
ALTER TABLE apex.scored_orders_1001 ADD PRIMARY KEY (run_id, row_nr);
CREATE INDEX ON apex.scored_orders_1001 ("cliente_id", "fecha_pedido_dt");
ALTER TABLE apex.scored_orders ATTACH PARTITION apex.scored_orders_1001 FOR VALUES FROM (1001) TO (1002);
INSERT INTO apex.scored_orders
SELECT run_id, n, 'c' || n, date '2024-08-24' + n % 3, 'DIGITAL', 0.5, 0.3, 0.2, 0.5, 1, now()
FROM generate_series(0, 39) AS n, (VALUES (1), (2)) AS runs (run_id);
INSERT INTO apex.outcomes SELECT run_id, row_nr, 'TELEFONO', 'raw' FROM apex.scored_orders WHERE row_nr < 20;
INSERT INTO apex.mlflow_outbox (run_id, batch) SELECT run_id, 'b' FROM apex.scoring_runs;
INSERT INTO apex.shadow_runs (run_id, model_version, rows_scored, state, step_run) VALUES (1, 2, 40, 'done', 's');
INSERT INTO apex.shadow_scores SELECT 1, 2, n, 'DIGITAL', 0.5, 0.3, 0.2 FROM generate_series(0, 39) AS n;
INSERT INTO apex.quarantined_rows (source_kind, source_sha256, source_name, row_nr, reasons, row)
VALUES ('drop', repeat('a', 64), 'bad', 1, '[{"column": "x", "value": "1", "rule": "r"}]', '{"x": 1}');
INSERT INTO apex.promotions (model_name, action, to_version, state, step_run, who, reasons, evidence)
VALUES ('digital_orders_xgboost', 'promote', 1, 'done', 'n', 'gate', ARRAY['first'],
        '{"challenger_log_loss": 0.9, "prior_log_loss": 1.1, "holdout_orders": 300}'),
       ('digital_orders_xgboost', 'reject', 2, 'done', 'o', 'gate', ARRAY['no gain'], '{"holdout_orders": 310}');
INSERT INTO apex.model_versions (model_name, model_version, mlflow_run_id, data_sha256, contract_sha256, step_run,
    about)
VALUES ('digital_orders_xgboost', 1, 'm', 'd', 'c', 'n', '{}');
INSERT INTO apex.alerts (kind, subject, message) VALUES ('drift', 'pais_cd', 'it drifts');
INSERT INTO apex.alert_deliveries (alert_id, channel) VALUES (1, 'mail');
INSERT INTO apex.drift (scope, subject, day, feature, kind, rows, drifted)
VALUES ('drop', '1', '2024-08-24', 'pais_cd', 'attribute', 40, true);
INSERT INTO apex.model_quality (model_name, model_version, week, scored, outcomes, worse)
VALUES ('digital_orders_xgboost', 1, '2024-08-19', 120, 60, false);
INSERT INTO apex.online_profiles (day, model_name, model_version, feature_snapshot, answers, profile)
VALUES ('2024-08-24', 'digital_orders_xgboost', 1, 's', 1, '{}');
INSERT INTO apex.online_orders (request_id, place, "cliente_id", "fecha_pedido_dt", known_client, predicted, confidence,
    model_name, model_version, answered_at)
VALUES ('r', 0, 'c1', '2024-08-24', true, 'DIGITAL', 0.5, 'digital_orders_xgboost', 1, now());
"""
"""Rows in every table: two drops share a partition, one has its own."""


def make_former_tables(settings: Settings) -> None:
    """Build the first edition's tables in an empty database, with rows."""
    with closing(psycopg2.connect(settings.writer_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(TABLES)
        for number, path in migration_files():
            if number <= LAST_MIGRATION:
                text = path.read_text(encoding="utf-8")
                cursor.execute(text)
                sha256 = hashlib.sha256(text.encode()).hexdigest()
                cursor.execute(
                    "INSERT INTO apex.migrations (number, name, sha256) VALUES (%s, %s, %s)",
                    (number, path.name, sha256),
                )
        cursor.execute(GENERATED.read_text(encoding="utf-8"))
        cursor.execute(GRANTS)
        cursor.execute(ROWS)
