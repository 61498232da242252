"""When is the SDE a valid description of a run? One call, and what it stands on."""

from sde_sgd.validity.cost import forecast_validity as forecast_validity
from sde_sgd.validity.measure import validity as validity
from sde_sgd.validity.result import Validity as Validity
from sde_sgd.validity.scan import validity_scan as validity_scan, ValidityScan as ValidityScan

__all__ = ["forecast_validity", "validity", "Validity", "validity_scan", "ValidityScan"]
