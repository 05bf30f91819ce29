"""MLflow: tracking, model registry, log of scoring runs."""
