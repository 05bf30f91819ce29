-- What a model version was trained from, for the page and for SQL.

CREATE VIEW apex.trained_versions AS
SELECT model_name, model_version, step_run, data_sha256, contract_sha256, git_commit, mlflow_run_id,
       about ->> 'mlflow_experiment_id' AS mlflow_experiment_id,
       (about ->> 'as_of')::date AS as_of,
       coalesce(about -> 'pages', '{}'::jsonb) AS pages
FROM apex.model_versions;
COMMENT ON VIEW apex.trained_versions IS 'One row for each registered model version: the run, the data, the contract and the code it was trained from. pages: names of the pages among the artifacts of its MLflow run, by what they show.';
GRANT SELECT ON apex.trained_versions TO apex_reader;
