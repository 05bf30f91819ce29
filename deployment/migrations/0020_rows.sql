-- Tables and views speak of rows and classes, whatever the rows of a pipeline are. Names change, and no row is copied.

ALTER TABLE apex.scoring_run_classes RENAME COLUMN orders TO rows;
ALTER VIEW apex.drop_classes RENAME COLUMN orders TO rows;
ALTER VIEW apex.model_history RENAME COLUMN holdout_orders TO holdout_rows;

-- what the contract generates exists in older databases only
ALTER TABLE IF EXISTS apex.scored_orders RENAME TO scored;
ALTER TABLE IF EXISTS apex.online_orders RENAME TO online_rows;
ALTER TABLE IF EXISTS apex.online_rows RENAME COLUMN known_client TO known_entity;
ALTER VIEW IF EXISTS apex.online_answers RENAME COLUMN known_client TO known_entity;
ALTER VIEW IF EXISTS apex.scored_orders_current RENAME TO scored_current;
ALTER VIEW IF EXISTS apex.channel_mix_daily RENAME TO class_mix_daily;
ALTER VIEW IF EXISTS apex.class_mix_daily RENAME COLUMN orders TO rows;
ALTER VIEW IF EXISTS apex.confidence_daily RENAME COLUMN orders TO rows;
ALTER VIEW IF EXISTS apex.drop_outcomes RENAME COLUMN orders TO rows;
ALTER VIEW IF EXISTS apex.shadow_comparison RENAME COLUMN orders TO rows;

DO $$
DECLARE
    old record;
BEGIN
    -- partitions, indexes and sequences have the table's name in theirs
    FOR old IN
        SELECT relname AS name, CASE WHEN relkind IN ('i', 'I') THEN 'INDEX' WHEN relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
        FROM pg_class
        WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'apex.drops'::regclass)
          AND relkind IN ('r', 'p', 'i', 'I', 'S') AND relname ~ '^(scored|online)_orders_'
        ORDER BY oid
    LOOP
        EXECUTE format('ALTER %s apex.%I RENAME TO %I', old.kind, old.name,
                       replace(replace(old.name, 'scored_orders_', 'scored_'), 'online_orders_', 'online_rows_'));
    END LOOP;
    -- so have the constraints NOT NULL, from PostgreSQL 18 on; those of partitions are renamed with the table's
    FOR old IN
        SELECT c.conname AS name, r.relname AS relation
        FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
        WHERE c.connamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'apex.drops'::regclass)
          AND c.contype = 'n' AND c.coninhcount = 0 AND c.conname ~ '^(scored|online)_orders_'
        ORDER BY c.oid
    LOOP
        EXECUTE format('ALTER TABLE apex.%I RENAME CONSTRAINT %I TO %I', old.relation, old.name,
                       replace(replace(old.name, 'scored_orders_', 'scored_'), 'online_orders_', 'online_rows_'));
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION apex.attach_scored_partition(low bigint, high bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- not CREATE TABLE … PARTITION OF, which would wait for every reader of the whole table
    EXECUTE format('CREATE TABLE apex.%I (LIKE apex.scored INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', 'scored_' || low);
    EXECUTE format('ALTER TABLE apex.scored ATTACH PARTITION apex.%I FOR VALUES FROM (%s) TO (%s)', 'scored_' || low, low, high);
END $$;

COMMENT ON TABLE apex.outcomes IS 'One row for each scored row whose true target is known.';
COMMENT ON VIEW apex.drop_classes IS 'One row for each drop and predicted class, of the latest scoring run. rows: how many rows have this prediction.';
COMMENT ON TABLE apex.scored_partitions IS 'One row for each partition of scored. It holds the runs from low to below high. Small drops go into the newest partition while next is below high.';
COMMENT ON COLUMN apex.scoring_runs.profile IS 'Counts of the scored rows by level or bin of every feature, of the prediction and of its confidence. Null for runs that older versions of Apex wrote.';
COMMENT ON TABLE apex.drift IS 'One row for each feature of a scored drop, of a day of scoring, of a day of online answers, or of a week of raw rows: how far its distribution is from the reference. effect is Cohen''s w. q_value is the p-value corrected for the number of features. note says why there is no test.';
COMMENT ON VIEW apex.drift_latest IS 'One row for each feature of the newest drop that no other replaced, of the newest day of scoring, of the newest day of online answers and of the newest week of raw rows.';
COMMENT ON VIEW apex.drift_history IS 'One row for each feature of every drop, day of scoring, day of online answers and week of raw rows: its distance from the reference.';
COMMENT ON TABLE apex.model_quality IS 'One row for each model version and week, by its Monday, over the current scores of rows whose outcome is known. low and high of log loss and accuracy bound 95 % intervals. verdict compares compared_low to compared_high with expected_low to expected_high and with upper_limit. sustained: the version is worse over several weeks, since sustained_since, by sustained_excess nats on average; sustained_evidence is 1 at the alarm. Null verdict: an older version of Apex evaluated the week.';
COMMENT ON VIEW apex.model_quality_weekly IS 'One row for each model version and week: the quality of its scores where the outcome is known, beside the expectation and the class prior of that week. classes: for each class the number of its rows, precision, recall and F1.';
COMMENT ON TABLE apex.online_profiles IS 'One row for each UTC day and model version: recorded online answers, and counts of their rows by level or bin of every feature, of the prediction and of its confidence. feature_snapshot is that of the newest answer.';
