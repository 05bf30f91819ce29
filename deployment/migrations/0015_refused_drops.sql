-- A drop that was refused because too many of its rows break the contract shows how many they are.

ALTER TABLE apex.drops ADD COLUMN rows_quarantined bigint;
COMMENT ON COLUMN apex.drops.rows IS 'Rows of the file; null for a file that could not be read.';
COMMENT ON COLUMN apex.drops.rows_quarantined IS 'Rows that break the contract, of a drop that was refused for them; null for any other drop: a scored one has them in scoring_runs.';

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
       o.mlflow_run_id AS scoring_mlflow_run_id, r.input_alert
FROM apex.drops AS d LEFT JOIN apex.scoring_runs AS r USING (drop_id) LEFT JOIN apex.mlflow_outbox AS o USING (run_id)
ORDER BY d.drop_id, r.run_id DESC;
COMMENT ON VIEW apex.drop_summary IS 'One row a drop, with the figures of its latest scoring run. Of a drop that was refused for its rows, the counts alone; of a file that could not be read, state and reason alone: its counts are null.';
