"""The engine."""

from sde_sgd.simulate.checkpoint import Checkpoint as Checkpoint
from sde_sgd.simulate.engine import forecast as forecast, simulate as simulate
from sde_sgd.simulate.forecast import Forecast as Forecast
from sde_sgd.simulate.merging import merge as merge
from sde_sgd.simulate.price import Price as Price
from sde_sgd.simulate.run import DivergenceError as DivergenceError, load as load, Run as Run
