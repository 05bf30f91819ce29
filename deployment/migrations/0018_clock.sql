-- The ledger takes the time from one function, so that a simulation can live through a year in an hour: a connection
-- that sets apex.clock_offset writes times that lie that far from the server's.

CREATE FUNCTION apex.clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT now() + coalesce(nullif(current_setting('apex.clock_offset', true), '')::interval, interval '0') $$;
COMMENT ON FUNCTION apex.clock() IS 'The time that the ledger records: now(), moved by the offset of a simulation where the connection sets one.';

ALTER TABLE apex.drops ALTER COLUMN received_at SET DEFAULT apex.clock(), ALTER COLUMN delivered_at SET DEFAULT apex.clock();
ALTER TABLE apex.promotions ALTER COLUMN decided_at SET DEFAULT apex.clock();
ALTER TABLE apex.alerts ALTER COLUMN raised_at SET DEFAULT apex.clock(), ALTER COLUMN last_seen_at SET DEFAULT apex.clock();
ALTER TABLE apex.drift ALTER COLUMN measured_at SET DEFAULT apex.clock();
ALTER TABLE apex.model_quality ALTER COLUMN measured_at SET DEFAULT apex.clock();
ALTER TABLE apex.model_versions ALTER COLUMN recorded_at SET DEFAULT apex.clock();
ALTER TABLE apex.shadow_runs ALTER COLUMN finished_at SET DEFAULT apex.clock();
