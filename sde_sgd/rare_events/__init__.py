"""Rare events: adaptive multilevel splitting."""

from .result import Splitting as Splitting
from .splitting import splitting as splitting
from .wave import SplittingError as SplittingError
