-- Databases and roles of Apex, for psql as a superuser. Safe to rerun: passwords are set again, nothing is dropped.
-- Passwords come from the environment, so that no command line and no log shows them.
\set ON_ERROR_STOP on
\set QUIET on
\getenv airflow_password APEX_PG_AIRFLOW_PASSWORD
\getenv mlflow_password APEX_PG_MLFLOW_PASSWORD
\getenv writer_password APEX_PG_WRITER_PASSWORD
\getenv reader_password APEX_PG_READER_PASSWORD
-- what people with the reader's role may take; the settings of these names, or their defaults
\set reader_connections 30
\set reader_idle_minutes 10
\getenv reader_connections APEX_PG_READER_CONNECTIONS
\getenv reader_idle_minutes APEX_PG_READER_IDLE_MINUTES
-- each pipeline with the password of its reader, in APEX_PG_PIPELINE_READERS: claims=PASSWORD,visits=PASSWORD
\set pipeline_readers ''
\getenv pipeline_readers APEX_PG_PIPELINE_READERS
SET client_min_messages = warning;
-- a failing statement must not write its password into the server's log
SET log_min_error_statement = panic;
SET log_statement = 'none';

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['airflow', 'mlflow', 'apex_writer', 'apex_reader']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

ALTER ROLE airflow LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'airflow_password';
ALTER ROLE mlflow LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'mlflow_password';
ALTER ROLE apex_writer LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'writer_password';
ALTER ROLE apex_reader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'reader_password';

-- a pool that opens all connections must not stop the platform, nor one transaction that is left open
ALTER ROLE apex_reader CONNECTION LIMIT :reader_connections;
SELECT format('ALTER ROLE apex_reader SET idle_in_transaction_session_timeout = %L', :'reader_idle_minutes' || 'min') \gexec
-- A killed scheduler's transaction would stay open, and its locks held, as long as one of its workers lives: they have
-- copies of its connection. The runs of its DAGs would not go on.
ALTER ROLE airflow SET idle_in_transaction_session_timeout = '1min';
-- slots that only the writer gets (reserved_connections), and the right to name the sessions that are in its way;
-- the first of the two roles is there from PostgreSQL 16 on
SELECT format('GRANT %I TO apex_writer', rolname) FROM pg_roles
WHERE rolname IN ('pg_use_reserved_connections', 'pg_read_all_stats') \gexec

SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING %L', name, owner, 'UTF8')
FROM (VALUES ('airflow', 'airflow'), ('mlflow', 'mlflow'), ('apex', 'apex_writer')) AS wanted (name, owner)
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec

-- each role reaches only its own database; PUBLIC may not even connect
REVOKE ALL ON DATABASE airflow, mlflow, apex, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE apex TO apex_reader;
ALTER ROLE apex_writer IN DATABASE apex SET search_path = apex;
ALTER ROLE apex_reader IN DATABASE apex SET search_path = apex;
ALTER ROLE apex_reader SET default_transaction_read_only = on;


-- a role for each pipeline that reads its views alone; `apex up` grants them when it makes the views
CREATE TEMP TABLE readers AS
SELECT split_part(reader, '=', 1) AS pipeline, split_part(reader, '=', 1) || '_reader' AS role,
       nullif(split_part(reader, '=', 2), '') AS password
FROM regexp_split_to_table(:'pipeline_readers', ',') AS reader WHERE reader <> '';
SELECT format('CREATE ROLE %I', role) FROM readers
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec
SELECT format('ALTER ROLE %I LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS'
              ' CONNECTION LIMIT %s PASSWORD %L', role, :reader_connections, password) FROM readers \gexec
SELECT format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', role, :'reader_idle_minutes' || 'min')
FROM readers \gexec
SELECT format('ALTER ROLE %I SET default_transaction_read_only = on', role) FROM readers \gexec
SELECT format('ALTER ROLE %I IN DATABASE apex SET search_path = %I', role, pipeline) FROM readers \gexec
SELECT format('GRANT CONNECT ON DATABASE apex TO %I', role) FROM readers \gexec

\connect airflow
REVOKE ALL ON SCHEMA public FROM PUBLIC;
\connect mlflow
REVOKE ALL ON SCHEMA public FROM PUBLIC;
\connect apex
REVOKE ALL ON SCHEMA public FROM PUBLIC;
