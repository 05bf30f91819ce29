"""Triggers that watch for new files."""
