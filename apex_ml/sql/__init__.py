"""Compilers from the contract to SQL text."""
