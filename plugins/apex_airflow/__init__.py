"""The Airflow side of Apex: operators, runtimes, triggers, pages, assets and links.

Steps run only as commands, so Airflow's own image needs no ML package.
"""
