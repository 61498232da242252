"""The engine."""

from .checkpoint import Checkpoint as Checkpoint
from .engine import Forecast as Forecast, forecast as forecast, simulate as simulate
from .run import DivergenceError as DivergenceError, load as load, Run as Run
