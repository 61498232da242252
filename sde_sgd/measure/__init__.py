"""Streaming measures and the estimates they return."""

from .base import AbstractMeasure as AbstractMeasure, Tick as Tick
from .estimate import Estimate as Estimate
from .first_passage import FirstPassage as FirstPassage
from .histogram import Histogram as Histogram
from .moments import Moments as Moments
from .snapshots import Snapshots as Snapshots
