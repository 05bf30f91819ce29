-- The fixed tables. What depends on the contract (scored_orders, its views) is generated beside them.

CREATE TABLE apex.drops (
    drop_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256         text NOT NULL UNIQUE CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    name           text NOT NULL,
    bytes          bigint NOT NULL CHECK (bytes >= 0),
    rows           bigint CHECK (rows >= 0),
    state          text NOT NULL CHECK (state IN ('done', 'failed')),
    reason         text,
    deliveries     integer NOT NULL DEFAULT 1,
    received_at    timestamptz NOT NULL DEFAULT now(),
    delivered_at   timestamptz NOT NULL DEFAULT now(),
    superseded_by  bigint REFERENCES apex.drops
);
COMMENT ON TABLE apex.drops IS 'One row a delivered content: a drop is its bytes, whatever its name. deliveries counts how often it came.';
CREATE INDEX drops_name ON apex.drops (name);

CREATE TABLE apex.scoring_runs (
    run_id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    drop_id            bigint NOT NULL REFERENCES apex.drops,
    step_run           text NOT NULL,
    model_name         text NOT NULL,
    model_version      integer NOT NULL,
    mlflow_run_id      text NOT NULL,
    feature_snapshot   text NOT NULL,
    snapshot_as_of     date NOT NULL,
    rows_in            bigint NOT NULL,
    rows_scored        bigint NOT NULL,
    rows_quarantined   bigint NOT NULL,
    success_rate       double precision,
    ms_total           double precision NOT NULL,
    ms_check           double precision NOT NULL,
    ms_features        double precision NOT NULL,
    ms_predict         double precision NOT NULL,
    ms_write           double precision NOT NULL,
    row_us_mean        double precision,
    row_us_p50         double precision,
    row_us_p95         double precision,
    row_us_p99         double precision,
    confidence_mean    double precision,
    confidence_median  double precision,
    started_at         timestamptz NOT NULL,
    finished_at        timestamptz NOT NULL
);
COMMENT ON TABLE apex.scoring_runs IS 'One row a scoring of a drop. ms_* are milliseconds a phase; row_us_* are microseconds a row, p50, p95 and p99 over batches.';
CREATE INDEX scoring_runs_drop ON apex.scoring_runs (drop_id);

CREATE TABLE apex.scoring_run_classes (
    run_id           bigint NOT NULL REFERENCES apex.scoring_runs ON DELETE CASCADE,
    predicted        text NOT NULL,
    orders           bigint NOT NULL,
    mean_confidence  double precision,
    PRIMARY KEY (run_id, predicted)
);
COMMENT ON TABLE apex.scoring_run_classes IS 'One row a scoring run and predicted class.';

CREATE TABLE apex.quarantined_rows (
    source_kind     text NOT NULL CHECK (source_kind IN ('drop', 'raw')),
    source_sha256   text NOT NULL,
    source_name     text NOT NULL,
    row_nr          bigint NOT NULL,
    reasons         jsonb NOT NULL,
    row             jsonb NOT NULL,
    quarantined_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_kind, source_sha256, row_nr)
);
COMMENT ON TABLE apex.quarantined_rows IS 'One row a row that breaks the contract, with all its reasons; row_nr is its position in the file, from 0.';

CREATE TABLE apex.outcomes (
    run_id       bigint NOT NULL,
    row_nr       bigint NOT NULL,
    observed     text NOT NULL,
    source       text NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, row_nr)
);
COMMENT ON TABLE apex.outcomes IS 'One row a scored order whose true target became known.';

CREATE TABLE apex.promotions (
    promotion_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_name       text NOT NULL,
    action           text NOT NULL CHECK (action IN ('promote', 'reject', 'rollback', 'manual')),
    from_version     integer,
    to_version       integer,
    state            text NOT NULL CHECK (state IN ('pending', 'done', 'aborted')),
    step_run         text NOT NULL,
    who              text NOT NULL,
    reasons          text[] NOT NULL,
    evidence         jsonb NOT NULL DEFAULT '{}',
    data_sha256      text,
    contract_sha256  text,
    decided_at       timestamptz NOT NULL DEFAULT now(),
    done_at          timestamptz
);
COMMENT ON TABLE apex.promotions IS 'The ledger: one row a decision about the champion; append-only but for the state.';
CREATE UNIQUE INDEX promotions_one_pending ON apex.promotions (model_name) WHERE state = 'pending';
CREATE UNIQUE INDEX promotions_once_a_run ON apex.promotions (model_name, step_run, to_version)
    WHERE action IN ('promote', 'reject') AND state = 'done';

CREATE VIEW apex.model_history AS
SELECT promotion_id, decided_at, model_name, action, from_version, to_version, state, who, reasons,
       (evidence ->> 'challenger_log_loss')::double precision AS challenger_log_loss,
       (evidence ->> 'champion_log_loss')::double precision AS champion_log_loss,
       (evidence ->> 'prior_log_loss')::double precision AS prior_log_loss,
       (evidence ->> 'holdout_orders')::bigint AS holdout_orders,
       evidence, data_sha256, contract_sha256, step_run, done_at
FROM apex.promotions;
COMMENT ON VIEW apex.model_history IS 'One row a decision about the champion, with the log losses it rests on.';

CREATE VIEW apex.drop_summary AS
SELECT DISTINCT ON (d.drop_id)
       d.drop_id, d.name, d.sha256, d.state, d.reason, d.deliveries, d.received_at, d.superseded_by,
       r.run_id, r.model_name, r.model_version, r.mlflow_run_id, r.feature_snapshot, r.snapshot_as_of,
       r.rows_in, r.rows_scored, r.rows_quarantined, r.success_rate,
       r.confidence_mean, r.confidence_median, r.row_us_mean, r.row_us_p50, r.row_us_p95, r.row_us_p99,
       r.ms_total, r.ms_check, r.ms_features, r.ms_predict, r.ms_write, r.started_at, r.finished_at
FROM apex.drops AS d LEFT JOIN apex.scoring_runs AS r USING (drop_id)
ORDER BY d.drop_id, r.run_id DESC;
COMMENT ON VIEW apex.drop_summary IS 'One row a drop, with the figures of its latest scoring run.';

CREATE VIEW apex.drop_classes AS
SELECT s.drop_id, s.name, c.run_id, c.predicted, c.orders, c.orders / nullif(s.rows_scored, 0)::double precision AS share,
       c.mean_confidence
FROM apex.drop_summary AS s JOIN apex.scoring_run_classes AS c USING (run_id);
COMMENT ON VIEW apex.drop_classes IS 'One row a drop and predicted class, of the latest scoring run.';

CREATE VIEW apex.quarantine AS
SELECT source_kind, source_name, source_sha256, row_nr, reason ->> 'column' AS column_name, reason ->> 'value' AS value,
       reason ->> 'rule' AS rule, row, quarantined_at
FROM apex.quarantined_rows, jsonb_array_elements(reasons) AS reason;
COMMENT ON VIEW apex.quarantine IS 'One row a reason of a quarantined row.';

CREATE TABLE apex.model_versions (
    model_name       text NOT NULL,
    model_version    integer NOT NULL,
    mlflow_run_id    text NOT NULL,
    data_sha256      text NOT NULL,
    contract_sha256  text NOT NULL,
    git_commit       text,
    step_run         text NOT NULL,
    about            jsonb NOT NULL,
    recorded_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model_name, model_version)
);
COMMENT ON TABLE apex.model_versions IS 'One row a registered model version that came before the gate, with what it was made from.';

GRANT SELECT ON apex.model_history, apex.drop_summary, apex.drop_classes, apex.quarantine TO apex_reader;
