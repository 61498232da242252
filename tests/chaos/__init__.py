"""Runs that are killed, interrupted, cut short and starved of disk: `python -m tests.chaos`."""
