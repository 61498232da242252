"""The main job: SGD and its SDE from one start, on one clock, compared with errors."""

from .laws import Distances, Observable
from .load import load_side_by_side
from .price import forecast_side_by_side
from .result import SideBySide
from .run import side_by_side
from .svag import svag_limit, SvagLimit

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
