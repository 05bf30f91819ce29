-- The contracts of the tables, and the one under which a model was trained and a drop was scored.

CREATE TABLE apex.contracts (
    contract_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    identity     text NOT NULL,
    content      jsonb NOT NULL,
    applied_at   timestamptz NOT NULL DEFAULT apex.clock()
);
COMMENT ON TABLE apex.contracts IS 'One row for each contract that the tables were brought to; the newest one is that of the tables. identity: sha256 of content. content: the columns and features of the contract, without descriptions and limits.';

ALTER TABLE apex.model_versions ADD COLUMN contract_identity text;
COMMENT ON COLUMN apex.model_versions.contract_identity IS 'Identity of the contract under which the version was trained. Null: an older version of Apex trained it.';

ALTER TABLE apex.scoring_runs ADD COLUMN contract_identity text;
COMMENT ON COLUMN apex.scoring_runs.contract_identity IS 'Identity of the contract by which the drop was scored. Null: an older version of Apex scored it.';

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
       o.mlflow_run_id AS scoring_mlflow_run_id, r.input_alert, r.input_warning, r.contract_identity
FROM apex.drops AS d LEFT JOIN apex.scoring_runs AS r USING (drop_id) LEFT JOIN apex.mlflow_outbox AS o USING (run_id)
ORDER BY d.drop_id, r.run_id DESC;
