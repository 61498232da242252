"""The engine."""

from .checkpoint import Checkpoint as Checkpoint
from .driver import Forecast as Forecast
from .engine import forecast as forecast, simulate as simulate
from .price import Price as Price
from .run import DivergenceError as DivergenceError, load as load, Run as Run
