"""The online prediction service."""
