-- Totals of all scoring runs and of all alerts, for metrics.

CREATE VIEW apex.scoring_totals AS
SELECT count(*) AS runs, coalesce(sum(rows_scored), 0)::bigint AS rows_scored,
       coalesce(sum(rows_quarantined), 0)::bigint AS rows_quarantined, max(finished_at) AS newest
FROM apex.scoring_runs;
COMMENT ON VIEW apex.scoring_totals IS 'One row: all scoring runs, also those that a later run or delivery replaced.';

CREATE VIEW apex.alert_totals AS
SELECT kind, count(*) AS raised, count(*) FILTER (WHERE resolved_at IS NULL) AS open, max(raised_at) AS newest
FROM apex.alerts GROUP BY kind;
COMMENT ON VIEW apex.alert_totals IS 'One row a kind of alert: how many were ever raised, how many are open, and when the newest was raised.';

GRANT SELECT ON apex.scoring_totals, apex.alert_totals TO apex_reader;
