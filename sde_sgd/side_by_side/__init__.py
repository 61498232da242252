"""The main job: SGD and its SDE from one start, on one clock, compared with errors."""

from .result import Distances, Observable, SideBySide
from .run import side_by_side

__all__ = ["Distances", "Observable", "SideBySide", "side_by_side"]
