"""Processes in continuous time: flows and equations of SGD."""
