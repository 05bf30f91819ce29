-- Which versions of Delta and Iceberg tables a model version was trained from.

CREATE OR REPLACE VIEW apex.trained_versions AS
SELECT model_name, model_version, step_run, data_sha256, contract_sha256, git_commit, mlflow_run_id,
       about ->> 'mlflow_experiment_id' AS mlflow_experiment_id,
       (about ->> 'as_of')::date AS as_of,
       coalesce(about -> 'pages', '{}'::jsonb) AS pages,
       coalesce(about -> 'tables', '[]'::jsonb) AS tables
FROM apex.model_versions;
COMMENT ON VIEW apex.trained_versions IS 'One row for each registered model version: the run, the data, the contract and the code it was trained from. pages: names of the pages among the artifacts of its MLflow run, by what they show. tables: versions of the Delta and Iceberg tables that were read.';

-- The contract adds columns behind those that every pipeline has, and a view gets no column between others: it is made
-- again behind this file. A view of a user that reads it goes on reading the former one.
DO $$
BEGIN
    DROP VIEW IF EXISTS apex.lineage;
EXCEPTION WHEN dependent_objects_still_exist THEN
    ALTER VIEW apex.lineage RENAME TO lineage_before_0024;
END $$;
