-- Verdict, drawing and rule are one: what each verdict compared is kept beside it.

ALTER TABLE apex.model_quality
    ADD COLUMN verdict             text,
    ADD COLUMN log_loss_error      double precision,
    ADD COLUMN expected_error      double precision,
    ADD COLUMN compared_low        double precision,
    ADD COLUMN compared_high       double precision,
    ADD COLUMN expected_low        double precision,
    ADD COLUMN expected_high       double precision,
    ADD COLUMN upper_limit         double precision,
    ADD COLUMN sustained           boolean,
    ADD COLUMN sustained_evidence  double precision,
    ADD COLUMN sustained_since     date,
    ADD COLUMN sustained_excess    double precision;
COMMENT ON TABLE apex.model_quality IS 'One row a model version and week, from its Monday, of the current scores of orders whose outcome is known. low and high of log loss and accuracy bound 95 % intervals. verdict compares compared_low to compared_high with expected_low to expected_high and with upper_limit. sustained: the version is worse over several weeks, since sustained_since, by sustained_excess nats on average; sustained_evidence is 1 at the alarm. Null verdict: evaluated before verdicts were kept.';

CREATE OR REPLACE VIEW apex.model_quality_weekly AS
SELECT model_name, model_version, week, scored, outcomes, outcomes::double precision / nullif(scored, 0) AS coverage,
       log_loss, log_loss_low, log_loss_high, expected_log_loss, prior_log_loss, accuracy, accuracy_low, accuracy_high,
       macro_f1, ece, classes, worse, note, measured_at, verdict, log_loss_error, expected_error, compared_low,
       compared_high, expected_low, expected_high, upper_limit, sustained, sustained_evidence, sustained_since,
       sustained_excess
FROM apex.model_quality;

ALTER TABLE apex.drift ADD COLUMN min_effect double precision;
COMMENT ON COLUMN apex.drift.min_effect IS 'Effect from which a change of this feature matters: it has drifted when effect is at least this and q_value is significant.';
CREATE OR REPLACE VIEW apex.drift_history AS SELECT * FROM apex.drift;
CREATE OR REPLACE VIEW apex.drift_latest AS
SELECT d.* FROM apex.drift AS d JOIN
    (SELECT DISTINCT ON (scope) scope, subject FROM apex.drift ORDER BY scope, day DESC, measured_at DESC, subject DESC)
    AS newest USING (scope, subject);
