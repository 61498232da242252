"""The main job: SGD and its SDE from one start, on one clock, compared with errors."""

from sde_sgd.side_by_side.laws import Distances, Observable
from sde_sgd.side_by_side.load import load_side_by_side
from sde_sgd.side_by_side.price import forecast_side_by_side
from sde_sgd.side_by_side.result import SideBySide
from sde_sgd.side_by_side.run import side_by_side
from sde_sgd.side_by_side.svag import svag_limit, SvagLimit

__all__ = [
    "Distances",
    "Observable",
    "SideBySide",
    "SvagLimit",
    "forecast_side_by_side",
    "load_side_by_side",
    "side_by_side",
    "svag_limit",
]
