-- Quarantined rows of a drop that is a folder name the file that holds them.

ALTER TABLE apex.quarantined_rows ADD COLUMN part text, ADD COLUMN part_row bigint;
COMMENT ON COLUMN apex.quarantined_rows.part IS 'Of a drop that is a folder, the path of the file that holds the row.';
COMMENT ON COLUMN apex.quarantined_rows.part_row IS 'Position of the row in that file, counted from 0; of CSV its line, from 1.';

CREATE OR REPLACE VIEW apex.quarantine AS
SELECT source_kind, source_name, source_sha256, row_nr, reason ->> 'column' AS column_name, reason ->> 'value' AS value,
       reason ->> 'rule' AS rule, row, quarantined_at, part, part_row
FROM apex.quarantined_rows, jsonb_array_elements(reasons) AS reason;
COMMENT ON VIEW apex.quarantine IS 'One row for each reason of a quarantined row.';
