-- A scored drop shows what is odd about its content without being an alert: no rows, or dates far ahead.

ALTER TABLE apex.scoring_runs ADD COLUMN input_warning text;
COMMENT ON COLUMN apex.scoring_runs.input_warning IS 'What was odd about the drop''s content when it was scored: it had no rows, or rows dated far after the history that they were scored with. Null: nothing.';

CREATE OR REPLACE VIEW apex.drop_summary AS
SELECT DISTINCT ON (d.drop_id)
       d.drop_id, d.name, d.sha256, d.state, d.reason, d.deliveries, d.received_at, d.superseded_by,
       r.run_id, r.model_name, r.model_version, r.mlflow_run_id, r.feature_snapshot, r.snapshot_as_of,
       coalesce(r.rows_in, d.rows) AS rows_in,
       coalesce(r.rows_scored, CASE WHEN d.rows IS NOT NULL THEN 0::bigint END) AS rows_scored,
       coalesce(r.rows_quarantined, d.rows_quarantined) AS rows_quarantined,
       CASE WHEN r.run_id IS NOT NULL THEN r.success_rate WHEN d.rows > 0 THEN 0::double precision END AS success_rate,
       r.confidence_mean, r.confidence_median, r.row_us_mean, r.row_us_p50, r.row_us_p95, r.row_us_p99,
       r.ms_total, r.ms_check, r.ms_features, r.ms_predict, r.ms_write, r.started_at, r.finished_at,
       o.mlflow_run_id AS scoring_mlflow_run_id, r.input_alert, r.input_warning
FROM apex.drops AS d LEFT JOIN apex.scoring_runs AS r USING (drop_id) LEFT JOIN apex.mlflow_outbox AS o USING (run_id)
ORDER BY d.drop_id, r.run_id DESC;
