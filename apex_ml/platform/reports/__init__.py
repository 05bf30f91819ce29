"""What the platform shows: status, result of a job, tables of settings."""
