"""Warnings that point at the user's line."""

import os
import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent.parent) + os.sep


def warn(message: str) -> None:
    """A warning located at the caller of the package, however deep the package raised it."""
    frame, level, depth = sys._getframe(1), 1, 1
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            level = depth + 2
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, stacklevel=level)
