"""When is the SDE a valid description of a run? One call, and what it stands on."""

from .measure import validity as validity
from .result import Validity as Validity

__all__ = ["validity", "Validity"]
