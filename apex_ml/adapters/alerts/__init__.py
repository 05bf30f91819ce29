"""Channels that send alerts."""
