-- Alerts, and the median confidence of every class.

CREATE TABLE apex.alerts (
    alert_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL,
    subject      text NOT NULL,
    message      text NOT NULL,
    raised_at    timestamptz NOT NULL DEFAULT now(),
    resolved_at  timestamptz
);
COMMENT ON TABLE apex.alerts IS 'One row a thing that somebody should look at; resolved_at is set when it is over. kind bad_drop: subject is the name of a drop that cannot be scored.';
CREATE INDEX alerts_open ON apex.alerts (kind, subject) WHERE resolved_at IS NULL;

CREATE VIEW apex.open_alerts AS
SELECT alert_id, kind, subject, message, raised_at FROM apex.alerts WHERE resolved_at IS NULL;
COMMENT ON VIEW apex.open_alerts IS 'One row a thing that somebody should look at and that is not over.';

ALTER TABLE apex.scoring_run_classes ADD COLUMN median_confidence double precision;
CREATE OR REPLACE VIEW apex.drop_classes AS
SELECT s.drop_id, s.name, c.run_id, c.predicted, c.orders, c.orders / nullif(s.rows_scored, 0)::double precision AS share,
       c.mean_confidence, c.median_confidence
FROM apex.drop_summary AS s JOIN apex.scoring_run_classes AS c USING (run_id);

GRANT SELECT ON apex.open_alerts TO apex_reader;
