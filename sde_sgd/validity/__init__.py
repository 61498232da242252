"""When is the SDE a valid description of a run? One call, and what it stands on."""

from .cost import forecast_validity as forecast_validity
from .measure import validity as validity
from .result import Validity as Validity
from .scan import validity_scan as validity_scan, ValidityScan as ValidityScan

__all__ = ["forecast_validity", "validity", "Validity", "validity_scan", "ValidityScan"]
