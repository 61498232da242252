"""The shape of a landscape: critical points, basins, curvature."""
