"""All that knows Airflow: the step operator, the drop trigger, the assets and the links.

A step is reached only as a command, so that Airflow's own image needs no ML package.
"""
