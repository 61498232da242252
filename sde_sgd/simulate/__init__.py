"""The engine."""

from .checkpoint import Checkpoint as Checkpoint
from .engine import forecast as forecast, simulate as simulate
from .forecast import Forecast as Forecast
from .price import Price as Price
from .run import DivergenceError as DivergenceError, load as load, Run as Run
