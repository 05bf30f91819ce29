"""Web pages, charts and metrics served by Airflow's API server."""
