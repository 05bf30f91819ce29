-- Answers of the online service, by day, and their drift. The answers themselves are a table made from the contract.

CREATE TABLE apex.online_profiles (
    day               date NOT NULL,
    model_name        text NOT NULL,
    model_version     integer NOT NULL,
    feature_snapshot  text NOT NULL,
    answers           bigint NOT NULL,
    profile           jsonb NOT NULL,
    recorded_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (day, model_name, model_version)
);
COMMENT ON TABLE apex.online_profiles IS 'One row a UTC day and model version: recorded online answers, and counts of their orders by level or bin of every feature, of the prediction and of its confidence. feature_snapshot is that of the newest answer.';

CREATE VIEW apex.online_days AS
SELECT day, model_name, model_version, feature_snapshot, answers, recorded_at FROM apex.online_profiles;
COMMENT ON VIEW apex.online_days IS 'One row a UTC day and model version: how many answers of the online service were recorded.';
GRANT SELECT ON apex.online_days TO apex_reader;

ALTER TABLE apex.drift DROP CONSTRAINT drift_scope_check;
ALTER TABLE apex.drift ADD CONSTRAINT drift_scope_check CHECK (scope IN ('drop', 'day', 'raw', 'online'));
COMMENT ON TABLE apex.drift IS 'One row a feature of a scored drop, of a day of scoring, of a day of online answers, or of a week of raw orders: how far its distribution is from the reference. effect is Cohen''s w; q_value is the p-value corrected for the number of features; note says why there is no test.';
COMMENT ON VIEW apex.drift_latest IS 'One row a feature of the newest drop, the newest day of scoring, the newest day of online answers and the newest week of raw orders that were looked at.';
COMMENT ON VIEW apex.drift_history IS 'One row a feature of every drop, day of scoring, day of online answers and week of raw orders that was looked at: its distance from the reference.';
