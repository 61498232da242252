"""Warnings that point at the user's line."""

import os
import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent.parent) + os.sep


def warn(message: str) -> None:
    """A warning located at the caller of the package, however deep the package raised it.

    A stderr without the letters gets question marks, and one that is closed costs the warning.
    """
    frame, level, depth = sys._getframe(1), 1, 1
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            level = depth + 2
        frame, depth = frame.f_back, depth + 1
    try:
        warnings.warn(message, stacklevel=level)
    except UnicodeEncodeError:
        warnings.warn(message.encode("ascii", "replace").decode(), stacklevel=level)
    except (ValueError, AttributeError):
        pass
