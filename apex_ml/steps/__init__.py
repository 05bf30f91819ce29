"""The steps of a pipeline, one module a step."""
