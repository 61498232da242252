"""One function over a grid of settings: each cell with a key and a file of its own."""

from sde_sgd.sweeps.result import Sweep as Sweep
from sde_sgd.sweeps.run import load as load, sweep as sweep
