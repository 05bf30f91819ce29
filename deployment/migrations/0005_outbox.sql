-- What MLflow is still to be told of scoring: written with the scores, sent after the commit, kept until it arrived.

CREATE TABLE apex.mlflow_outbox (
    run_id         bigint PRIMARY KEY REFERENCES apex.scoring_runs ON DELETE CASCADE,
    batch          text NOT NULL,
    origin         text NOT NULL DEFAULT '',
    written_at     timestamptz NOT NULL DEFAULT now(),
    attempts       integer NOT NULL DEFAULT 0,
    last_error     text,
    sent_at        timestamptz,
    mlflow_run_id  text
);
COMMENT ON TABLE apex.mlflow_outbox IS 'One row a scoring run whose statistics go to MLflow; all of one batch, the drops of one call of the step, share one MLflow run.';
CREATE INDEX mlflow_outbox_unsent ON apex.mlflow_outbox (batch) WHERE sent_at IS NULL;

CREATE OR REPLACE VIEW apex.drop_summary AS
SELECT DISTINCT ON (d.drop_id)
       d.drop_id, d.name, d.sha256, d.state, d.reason, d.deliveries, d.received_at, d.superseded_by,
       r.run_id, r.model_name, r.model_version, r.mlflow_run_id, r.feature_snapshot, r.snapshot_as_of,
       r.rows_in, r.rows_scored, r.rows_quarantined, r.success_rate,
       r.confidence_mean, r.confidence_median, r.row_us_mean, r.row_us_p50, r.row_us_p95, r.row_us_p99,
       r.ms_total, r.ms_check, r.ms_features, r.ms_predict, r.ms_write, r.started_at, r.finished_at,
       o.mlflow_run_id AS scoring_mlflow_run_id
FROM apex.drops AS d LEFT JOIN apex.scoring_runs AS r USING (drop_id) LEFT JOIN apex.mlflow_outbox AS o USING (run_id)
ORDER BY d.drop_id, r.run_id DESC;
