"""Folders and files: drops, raw data, parquet."""
