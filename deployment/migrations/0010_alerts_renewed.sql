-- Alerts keep their newest facts, can be closed by a person, and are delivered by each channel on its own.

ALTER TABLE apex.alerts
    ADD COLUMN last_seen_at  timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN seen_in       text,
    ADD COLUMN closed_by     text,
    ADD COLUMN closed_reason text;
UPDATE apex.alerts SET last_seen_at = coalesce(resolved_at, raised_at);
CREATE INDEX alerts_seen_in ON apex.alerts (seen_in) WHERE seen_in IS NOT NULL;
COMMENT ON TABLE apex.alerts IS 'One row a thing that somebody should look at. message holds the facts of last_seen_at; seen_in is the step run that saw it last. resolved_at is set when it is over, with closed_by and closed_reason when a person closed it. sent_at is set when every channel has it. Kinds: bad_drop (subject: name of a drop that cannot be scored), drift (feature), quality (model version), retrain_late, score_late, drop_late.';

CREATE OR REPLACE VIEW apex.open_alerts AS
SELECT alert_id, kind, subject, message, raised_at, sent_at, last_seen_at FROM apex.alerts WHERE resolved_at IS NULL;

CREATE VIEW apex.alert_history AS
SELECT alert_id, kind, subject, message, raised_at, last_seen_at, resolved_at, closed_by, closed_reason FROM apex.alerts;
COMMENT ON VIEW apex.alert_history IS 'One row an alert, open or over. closed_by and closed_reason: the person who closed it, and why; null when its cause went away.';

CREATE TABLE apex.alert_deliveries (
    alert_id  bigint NOT NULL REFERENCES apex.alerts ON DELETE CASCADE,
    channel   text NOT NULL CHECK (channel IN ('webhook', 'mail')),
    sent_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (alert_id, channel)
);
COMMENT ON TABLE apex.alert_deliveries IS 'One row an alert and channel that has taken it.';
INSERT INTO apex.alert_deliveries (alert_id, channel, sent_at)
SELECT alert_id, channel, sent_at FROM apex.alerts, (VALUES ('webhook'), ('mail')) AS c (channel) WHERE sent_at IS NOT NULL;

GRANT SELECT ON apex.alert_history TO apex_reader;
