-- Who is challenger: one definition, for the page, for the alias in MLflow and for `apex promote --force`.

CREATE VIEW apex.challenger AS
SELECT newest.model_name, newest.to_version AS version, newest.promotion_id, newest.from_version, newest.decided_at,
       newest.who, newest.reasons, newest.evidence
FROM (
    SELECT DISTINCT ON (model_name) * FROM apex.promotions
    WHERE state = 'done' AND action IN ('promote', 'reject') AND to_version IS NOT NULL
    ORDER BY model_name, promotion_id DESC
) AS newest
LEFT JOIN (
    SELECT DISTINCT ON (model_name) model_name, to_version AS version FROM apex.promotions
    WHERE state = 'done' AND action <> 'reject'
    ORDER BY model_name, promotion_id DESC
) AS champion USING (model_name)
WHERE newest.action = 'reject' AND newest.to_version IS DISTINCT FROM champion.version;
COMMENT ON VIEW apex.challenger IS 'At most one row a model: the version that the gate decided on last, if it was rejected and is not champion by another way. The alias challenger in MLflow stands on it.';

GRANT SELECT ON apex.challenger TO apex_reader;
