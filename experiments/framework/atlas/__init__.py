"""The atlas: pages of all results that are there, opened from disk, with nothing from a network."""

from .page import write

__all__ = ["write"]
