"""Ctrl-C as a request, so that a run ends between two iterations."""

import signal
import threading
from collections.abc import Callable


class Interrupt:
    """Turns the first Ctrl-C into a request to stop after the segment; the second is raised."""

    def __init__(self):
        self.requested = False
        self._previous: Callable | int | None = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)  # pyright: ignore
        return self

    def __exit__(self, *_) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
