-- How far the commits of tables that are sources of drops were handled.

CREATE TABLE apex.table_positions (
    place        text NOT NULL,
    table_id     text NOT NULL,
    version      bigint,
    committed_at timestamptz,
    sequence     bigint,
    begun_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (place, table_id)
);
COMMENT ON TABLE apex.table_positions IS 'One row for each Delta or Iceberg table whose appends are drops: its location, its id, and the version up to which every commit was handled. Without a version every commit is new.';
