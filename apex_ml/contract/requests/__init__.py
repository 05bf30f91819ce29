"""Requests to score rows: their shape, their values, their faults; all made from the contract."""
