"""Requests to score orders: their shape, their values, their faults; all made from the contract."""
