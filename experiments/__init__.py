"""One readable script for each claim; `python -m experiments` lists them."""
