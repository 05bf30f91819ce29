-- Scored orders in partitions by ranges of run_id: a large drop has its own, small ones share the newest.

CREATE TABLE apex.scored_partitions (
    low        bigint PRIMARY KEY,
    high       bigint NOT NULL CHECK (high > low),
    next       bigint NOT NULL CHECK (next BETWEEN low AND high),
    opened_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE apex.scored_partitions IS 'One row a partition of scored_orders: it holds the runs from low to below high. The newest one is open for small drops while next is below high.';

CREATE FUNCTION apex.attach_scored_partition(low bigint, high bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- not CREATE TABLE … PARTITION OF, which would wait for every reader of the whole table
    EXECUTE format('CREATE TABLE apex.%I (LIKE apex.scored_orders INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                   'scored_orders_' || low);
    EXECUTE format('ALTER TABLE apex.scored_orders ATTACH PARTITION apex.%I FOR VALUES FROM (%s) TO (%s)',
                   'scored_orders_' || low, low, high);
END $$;
COMMENT ON FUNCTION apex.attach_scored_partition IS 'Make an empty partition.';

CREATE FUNCTION apex.take_run_id(own boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last apex.scored_partitions;
    taken bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7261005);
    SELECT * INTO last FROM apex.scored_partitions ORDER BY low DESC LIMIT 1;
    IF NOT own AND last.next < last.high AND date_trunc('month', last.opened_at) = date_trunc('month', now()) THEN
        UPDATE apex.scored_partitions SET next = next + 1 WHERE low = last.low;
        RETURN last.next;
    END IF;
    taken := coalesce(last.high, 1);
    INSERT INTO apex.scored_partitions (low, high, next) VALUES (taken, taken + CASE WHEN own THEN 1 ELSE 1000 END, taken + 1);
    IF NOT own THEN
        PERFORM apex.attach_scored_partition(taken, taken + 1000);
    END IF;
    RETURN taken;
END $$;
COMMENT ON FUNCTION apex.take_run_id IS 'Take the next run_id, in a transaction of its own: in the open partition, or with own in a new range whose table the caller makes.';

DO $$
DECLARE
    above bigint;
BEGIN
    SELECT greatest(coalesce(max(run_id), 0), (SELECT CASE WHEN is_called THEN last_value ELSE 0 END
                                               FROM apex.scoring_runs_run_id_seq)) + 1
    INTO above FROM apex.scoring_runs;
    IF to_regclass('apex.scored_orders_shared') IS NOT NULL AND above > 1 THEN
        ALTER TABLE apex.scored_orders DETACH PARTITION apex.scored_orders_shared;
        ALTER TABLE apex.scored_orders_shared RENAME TO scored_orders_1;
        EXECUTE format('ALTER TABLE apex.scored_orders ATTACH PARTITION apex.scored_orders_1 FOR VALUES FROM (1) TO (%s)', above);
        INSERT INTO apex.scored_partitions (low, high, next) VALUES (1, above, above);
    ELSIF to_regclass('apex.scored_orders_shared') IS NOT NULL THEN
        DROP TABLE apex.scored_orders_shared;
    END IF;
END $$;
