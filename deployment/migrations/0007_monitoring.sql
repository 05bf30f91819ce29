-- Drift, quality by week, and alerts that are sent.

ALTER TABLE apex.scoring_runs ADD COLUMN profile jsonb;
COMMENT ON COLUMN apex.scoring_runs.profile IS 'Counts of the scored orders by level or bin of every feature, of the prediction and of its confidence; null for runs before profiles were kept.';

CREATE TABLE apex.drift (
    scope           text NOT NULL CHECK (scope IN ('drop', 'day', 'raw')),
    subject         text NOT NULL,
    day             date NOT NULL,
    model_name      text,
    model_version   integer,
    feature         text NOT NULL,
    kind            text NOT NULL CHECK (kind IN
        ('attribute', 'calendar', 'history', 'prediction', 'confidence', 'quarantine', 'target', 'measure')),
    reference       text,
    rows            bigint NOT NULL,
    reference_rows  bigint,
    psi             double precision,
    effect          double precision,
    p_value         double precision,
    q_value         double precision,
    drifted         boolean NOT NULL,
    note            text,
    measured_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, subject, feature)
);
COMMENT ON TABLE apex.drift IS 'One row a feature of a scored drop, of a day of scoring, or of a week of raw orders: how far its distribution is from the reference. effect is Cohen''s w; q_value is the p-value corrected for the number of features; note says why there is no test.';
CREATE INDEX drift_day ON apex.drift (day);

CREATE VIEW apex.drift_latest AS
SELECT d.* FROM apex.drift AS d JOIN
    (SELECT DISTINCT ON (scope) scope, subject FROM apex.drift ORDER BY scope, day DESC, measured_at DESC, subject DESC)
    AS newest USING (scope, subject);
COMMENT ON VIEW apex.drift_latest IS 'One row a feature of the newest drop, the newest day of scoring and the newest week of raw orders that were looked at.';

CREATE TABLE apex.model_quality (
    model_name         text NOT NULL,
    model_version      integer NOT NULL,
    week               date NOT NULL,
    scored             bigint NOT NULL,
    outcomes           bigint NOT NULL,
    log_loss           double precision,
    log_loss_low       double precision,
    log_loss_high      double precision,
    expected_log_loss  double precision,
    prior_log_loss     double precision,
    accuracy           double precision,
    accuracy_low       double precision,
    accuracy_high      double precision,
    macro_f1           double precision,
    ece                double precision,
    classes            jsonb NOT NULL DEFAULT '{}',
    worse              boolean NOT NULL,
    note               text,
    measured_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model_name, model_version, week)
);
COMMENT ON TABLE apex.model_quality IS 'One row a model version and week, from its Monday, of the current scores of orders whose outcome is known. Intervals are of 95 %; worse: significantly worse than expected at promotion, or than the class prior of that week.';

CREATE VIEW apex.model_quality_weekly AS
SELECT model_name, model_version, week, scored, outcomes, outcomes::double precision / nullif(scored, 0) AS coverage,
       log_loss, log_loss_low, log_loss_high, expected_log_loss, prior_log_loss, accuracy, accuracy_low, accuracy_high,
       macro_f1, ece, classes, worse, note, measured_at
FROM apex.model_quality;
COMMENT ON VIEW apex.model_quality_weekly IS 'One row a model version and week of orders: how good its scores were, where the outcome is known, beside what was expected and beside the class prior of that week. classes: per class orders, precision, recall and F1.';

ALTER TABLE apex.alerts ADD COLUMN sent_at timestamptz;
COMMENT ON TABLE apex.alerts IS 'One row a thing that somebody should look at; resolved_at is set when it is over, sent_at when it was sent to the webhook or by mail. Kinds: bad_drop (subject: name of a drop that cannot be scored), drift (drop and feature), quality (model version), retrain_late, drop_late.';

CREATE OR REPLACE VIEW apex.open_alerts AS
SELECT alert_id, kind, subject, message, raised_at, sent_at FROM apex.alerts WHERE resolved_at IS NULL;

GRANT SELECT ON apex.drift_latest, apex.model_quality_weekly TO apex_reader;
CREATE VIEW apex.drift_history AS SELECT * FROM apex.drift;
COMMENT ON VIEW apex.drift_history IS 'One row a feature of every drop, day of scoring and week of raw orders that was looked at: its distance from the reference.';
GRANT SELECT ON apex.drift_history TO apex_reader;
