"""Rows for the Apex page, as a platform of some age has them."""

from __future__ import annotations

import re
from contextlib import closing

import psycopg2

from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier
from tests.support.schema import SCHEMA

TRAINED = """
INSERT INTO orders.model_versions (model_name, model_version, mlflow_run_id, data_sha256, contract_sha256, step_run,
                                   about)
SELECT %(model)s, version, 'run-' || version, repeat('0', 64), repeat('1', 64), 'night-' || version,
       '{"mlflow_experiment_id": "7", "pages": {"Data profile": "profile.html"}}'
FROM generate_series(1, 9) AS version
"""
LEDGER = """
INSERT INTO orders.promotions (model_name, action, from_version, to_version, state, step_run, who, reasons, evidence,
                             decided_at, done_at)
SELECT %(model)s, action, before, after, 'done', 'night-' || after, 'orders_retrain', reasons, evidence::jsonb,
       now() - days * interval '1 day', now() - days * interval '1 day'
FROM (VALUES
    ('promote', NULL, 1, ARRAY['there is no champion and the class prior is beaten: 0.8941 against 1.3712'], 40,
     '{"challenger_log_loss": 0.8941, "prior_log_loss": 1.3712, "gain_over_prior": 0.4771,
       "gain_over_prior_low": 0.4702, "holdout_rows": 18211}'),
    ('reject', 1, 2, ARRAY['the gain over the champion is +0.00021 nats, lower bound -0.00038 (level 0.017,'
     || ' clustered): not above the margin 0.0002'], 21,
     '{"challenger_log_loss": 0.8939, "champion_log_loss": 0.8941, "prior_log_loss": 1.3706, "gain": 0.00021,
       "gain_low": -0.00038, "gain_error": 0.00028, "holdout_rows": 21930}'),
    ('promote', 1, 3, ARRAY['the gain over the champion is +0.00312 nats, lower bound +0.00208 (level 0.011,'
     || ' clustered): more than the margin 0.0002', 'the class prior is beaten: 0.8862 against 1.3711'], 9,
     '{"challenger_log_loss": 0.8862, "champion_log_loss": 0.8893, "prior_log_loss": 1.3711, "gain": 0.00312,
       "gain_low": 0.00208, "gain_error": 0.00047, "holdout_rows": 30118}'),
    ('reject', 3, 4, ARRAY['the gain over the champion is +0.00009 nats, lower bound -0.00051 (level 0.017,'
     || ' clustered): not above the margin 0.0002'], 1,
     '{"challenger_log_loss": 0.8858, "champion_log_loss": 0.8859, "prior_log_loss": 1.3709, "gain": 0.00009,
       "gain_low": -0.00051, "gain_error": 0.00029, "holdout_rows": 31402}')
) AS moves (action, before, after, reasons, days, evidence)
"""
DROPS = """
WITH made AS (
    INSERT INTO orders.drops (sha256, name, bytes, rows, state, reason, received_at)
    SELECT encode(sha256(('drop ' || i)::bytea), 'hex'), 'orders_' || to_char(t, 'YYYY-MM-DD"_"HH24-MI') || '.parquet',
           120000, 1000, CASE WHEN i %% 97 = 3 THEN 'failed' ELSE 'done' END,
           CASE WHEN i %% 97 = 3 THEN 'the column of the client is missing; the drop has 7 of 8 columns' END, t
    FROM (SELECT i, now() - (%(runs)s - i) * interval '45 days' / %(runs)s - interval '23 minutes 30 seconds' AS t
          FROM generate_series(1, %(runs)s) AS i) AS moments
    RETURNING drop_id, state, received_at
)
INSERT INTO orders.scoring_runs (drop_id, step_run, model_name, model_version, mlflow_run_id, feature_snapshot,
    snapshot_as_of, rows_in, rows_scored, rows_quarantined, success_rate, ms_total, ms_check, ms_features, ms_predict,
    ms_write, row_us_mean, row_us_p50, row_us_p95, row_us_p99, confidence_mean, confidence_median, started_at,
    finished_at)
SELECT drop_id, 'score', %(model)s, CASE WHEN received_at < now() - interval '9 days' THEN 1 ELSE 3 END,
       md5(drop_id::text), 'a1b2c3', current_date, 1000, 1000 - drop_id %% 7, drop_id %% 7,
       1 - drop_id %% 7 / 1000.0, 380 + drop_id %% 60, 60, 110, 90, 120, 1.9 + drop_id %% 10 / 10.0, 1.7, 2.9, 4.1,
       0.62 + sin(drop_id / 9.0) / 40, 0.6, received_at, received_at + interval '1 second'
FROM made WHERE state = 'done'
"""
CLASSES = """
INSERT INTO orders.scoring_run_classes (run_id, predicted, rows, mean_confidence, median_confidence)
SELECT run_id, name, CASE WHEN place = 1 THEN rows_scored - 2 * (rows_scored * share)::bigint
                          ELSE (rows_scored * share)::bigint END, 0.6, 0.6
FROM orders.scoring_runs, LATERAL (SELECT 0.22 + 0.06 * sin(run_id / 31.0)) AS s (share),
     unnest(%(classes)s::text[]) WITH ORDINALITY AS c (name, place)
"""
# a feature drifts, then recovers; the days since the last order do it most
FEATURES = """
     (VALUES ('region', 'attribute', 1), ('segment', 'attribute', 2), ('weekday', 'calendar', 3),
             ('orders before', 'history', 4), ('days since the last order', 'history', 5),
             ('share of the first channel', 'history', 6), ('prediction', 'prediction', 7),
             ('confidence', 'confidence', 8), ('quarantined', 'quarantine', 9)) AS features (feature, kind, nr),
     LATERAL (SELECT abs(sin(nr * 1.7 + back / 6.0)) ^ 6 * CASE WHEN nr = 5 THEN 0.6 WHEN nr = 2 THEN 0.3 ELSE 0.08
                     END) AS d (psi)
"""
DRIFT = """
INSERT INTO orders.drift (scope, subject, day, model_name, model_version, feature, kind, reference, rows,
    reference_rows, psi, effect, p_value, q_value, drifted, note, min_effect)
SELECT scope, CASE scope WHEN 'day' THEN day || ' v3' ELSE day || ' to ' || day + 6 END, day,
       %(model)s, 3, feature, kind, 'training',
       CASE WHEN back = 5 THEN 40 ELSE 1000 END,
       90000, CASE WHEN back <> 5 THEN psi END, CASE WHEN back <> 5 THEN sqrt(psi) END, 0.01, 0.02,
       back <> 5 AND psi > 0.2, CASE WHEN back = 5 THEN 'too few rows for a test: 40 of at least 100' END, sqrt(0.2)
FROM (SELECT 'day', back, current_date - back FROM generate_series(0, 44) AS back
      UNION ALL SELECT 'raw', back, date_trunc('week', current_date)::date - 7 * back
      FROM generate_series(0, 24) AS back)
      AS looks (scope, back, day),
     FEATURES
"""
DROP_DRIFT = """
INSERT INTO orders.drift (scope, subject, day, model_name, model_version, feature, kind, reference, rows,
    reference_rows, psi, effect, p_value, q_value, drifted, note, measured_at, min_effect)
SELECT 'drop', run_id::text, finished_at::date, %(model)s, model_version, feature, kind, 'training', rows_scored, 90000,
       psi, sqrt(psi), 0.01, 0.02, psi > 0.2, NULL, finished_at, sqrt(0.2)
FROM (SELECT *, run_id AS back FROM orders.scoring_runs) AS runs, FEATURES
"""
# the compared intervals are computed again, as the step does; the oldest week is from before they were stored
QUALITY = """
INSERT INTO orders.model_quality (model_name, model_version, week, scored, outcomes, log_loss, log_loss_low,
    log_loss_high, expected_log_loss, prior_log_loss, accuracy, accuracy_low, accuracy_high, macro_f1, ece, worse,
    verdict, log_loss_error, expected_error, compared_low, compared_high, expected_low, expected_high, upper_limit,
    sustained, sustained_evidence, sustained_since, sustained_excess)
SELECT %(model)s, version, week, 9800, 9800 * (0.3 + 0.06 * least(back, 9)), loss, loss - 0.015, loss + 0.015, expected,
       1.37 + back / 900.0, 0.66, 0.65, 0.67, 0.58, 0.012, verdict = 'worse', verdict,
       0.0076, 0.004, loss - 0.013, loss + 0.013, expected - 0.007, expected + 0.007, expected + 0.017,
       evidence >= 1, evidence, week - 7 * 3, 0.0163
FROM generate_series(0, 11) AS back,
     LATERAL (SELECT CASE WHEN back > 1 THEN 1 ELSE 3 END, date_trunc('week', current_date)::date - 7 * back,
                     CASE WHEN back > 1 THEN 0.8941 ELSE 0.8862 END,
                     CASE WHEN back = 2 THEN 0.938 WHEN back IN (3, 4, 5) THEN 0.918 ELSE 0.893 + 0.003 * sin(back) END,
                     (ARRAY[0.001, 0.001, 30, 4, 0.5, 0.08])[back + 1])
         AS q (version, week, expected, loss, evidence),
     LATERAL (SELECT CASE WHEN loss - 0.013 > expected + 0.017 THEN 'worse'
                          WHEN loss - 0.013 > expected + 0.007 THEN 'slightly worse'
                          ELSE 'as expected' END) AS v (verdict)
"""
OLD_QUALITY = """
UPDATE orders.model_quality SET (verdict, compared_low, compared_high, expected_low, expected_high, upper_limit,
    sustained, sustained_evidence) = ROW(NULL::text, NULL::float8, NULL::float8, NULL::float8, NULL::float8,
    NULL::float8, NULL::boolean, NULL::float8)
WHERE week < current_date - 76
"""
ALERTS = """
INSERT INTO orders.alerts (kind, subject, message, raised_at, resolved_at) VALUES
    ('drift', 'days since the last order', 'PSI 0.41 against the training data on 3 days in a row (q = 0.0004)',
     now() - interval '5 hours', NULL),
    ('quality', 'version 3', 'log loss 0.931 in the week of last Monday, significantly above the expected 0.886',
     now() - interval '2 days', NULL),
    ('drop_late', 'inbox', 'no drop for 26 hours', now() - interval '8 days', now() - interval '7 days')
"""
INPUT_ALERT = """
UPDATE orders.scoring_runs SET input_alert = '100.0% of region is unknown to the model, 0.0% in training'
WHERE run_id = (SELECT max(run_id) - 2 FROM orders.scoring_runs)
"""


def fill(settings: Settings, classes: tuple[str, ...], runs: int = 200, schema: str = SCHEMA) -> None:
    """Fill the empty tables of a schema: drops over the last 45 days, four decisions, drift, quality, alerts."""
    values = {
        "model": load_pipeline(settings.model_copy(update={"pipeline": schema})).model_name,
        "runs": runs,
        "classes": list(classes),
    }
    with closing(psycopg2.connect(settings.writer_url)) as connection:
        with connection, connection.cursor() as cursor:
            for statement in (LEDGER, DROPS, CLASSES, DRIFT, DROP_DRIFT, QUALITY, OLD_QUALITY, ALERTS):
                cursor.execute(_of(statement.replace("FEATURES", FEATURES), schema), values)
            cursor.execute(_of(INPUT_ALERT, schema))
            cursor.execute(_of(TRAINED, schema), values)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def _of(statement: str, schema: str) -> str:
    """The statement for the tables of another schema."""
    return re.sub(rf"\b{SCHEMA}\.(?=[a-z])", f"{identifier(schema)}.", statement)
