CREATE TABLE apex.shadow_runs (
    run_id            bigint NOT NULL REFERENCES apex.scoring_runs ON DELETE CASCADE,
    model_version     integer NOT NULL,
    mlflow_run_id     text,
    feature_snapshot  text,
    rows_scored       bigint NOT NULL DEFAULT 0,
    state             text NOT NULL CHECK (state IN ('done', 'failed')),
    reason            text,
    step_run          text NOT NULL,
    finished_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, model_version)
);
COMMENT ON TABLE apex.shadow_runs IS 'One row a scoring run and challenger that scored the same drop in its shadow.';
