"""The platform: start and stop it, check it, report on it."""
