"""Discrete processes: SGD and other optimisers."""
