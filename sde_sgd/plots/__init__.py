"""Figures from measured and predicted values."""

from sde_sgd.plots.side_by_side import figure as side_by_side_figure
from sde_sgd.plots.style import (
    band as band,
    COLOURS as COLOURS,
    new_figure as new_figure,
    points as points,
)

__all__ = ["band", "COLOURS", "new_figure", "points", "side_by_side_figure"]
