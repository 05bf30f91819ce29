-- An alert about a scored drop's own content stands beside its figures.

ALTER TABLE apex.scoring_runs ADD COLUMN input_alert text;
COMMENT ON COLUMN apex.scoring_runs.input_alert IS 'Message of the alert that scoring raised about the drop''s content: values of a feature that are unknown to the model, or null, far more often than in training. Null: no such alert.';

CREATE OR REPLACE VIEW apex.drop_summary AS
SELECT DISTINCT ON (d.drop_id)
       d.drop_id, d.name, d.sha256, d.state, d.reason, d.deliveries, d.received_at, d.superseded_by,
       r.run_id, r.model_name, r.model_version, r.mlflow_run_id, r.feature_snapshot, r.snapshot_as_of,
       r.rows_in, r.rows_scored, r.rows_quarantined, r.success_rate,
       r.confidence_mean, r.confidence_median, r.row_us_mean, r.row_us_p50, r.row_us_p95, r.row_us_p99,
       r.ms_total, r.ms_check, r.ms_features, r.ms_predict, r.ms_write, r.started_at, r.finished_at,
       o.mlflow_run_id AS scoring_mlflow_run_id, r.input_alert
FROM apex.drops AS d LEFT JOIN apex.scoring_runs AS r USING (drop_id) LEFT JOIN apex.mlflow_outbox AS o USING (run_id)
ORDER BY d.drop_id, r.run_id DESC;

COMMENT ON TABLE apex.alerts IS 'One row a thing that somebody should look at; resolved_at is set when it is over, sent_at when it was sent to the webhook or by mail. Kinds: bad_drop (subject: name of a drop that cannot be scored), unknown_values (name of a scored drop whose values the model does not know), drift (feature), quality (model version), drop_late, score_late, retrain_late.';
