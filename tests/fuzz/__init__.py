"""Bad input at every public door: `python -m tests.fuzz` replaces each argument by each value."""
