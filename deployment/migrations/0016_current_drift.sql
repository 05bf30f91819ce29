-- What drifts now is not read from a drop that a corrected one has replaced.

CREATE OR REPLACE VIEW apex.drift_latest AS
SELECT d.* FROM apex.drift AS d JOIN
    (SELECT DISTINCT ON (scope) scope, subject FROM apex.drift
     WHERE scope <> 'drop' OR subject NOT IN
         (SELECT r.run_id::text FROM apex.scoring_runs AS r JOIN apex.drops AS s USING (drop_id)
          WHERE s.superseded_by IS NOT NULL)
     ORDER BY scope, day DESC, measured_at DESC, subject DESC)
    AS newest USING (scope, subject);
COMMENT ON VIEW apex.drift_latest IS 'One row a feature of the newest drop that no other has replaced, the newest day of scoring, the newest day of online answers and the newest week of raw orders that were looked at.';
