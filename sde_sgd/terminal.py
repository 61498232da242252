"""What a long computation has to do with a terminal: a line of progress, Ctrl-C as a request."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO


class StatusLine:
    """A line on stderr: rewritten in place on a terminal, a new one now and then in a log.

    `show=None` shows it where stderr is a terminal.
    """

    def __init__(self, show: bool | None):
        self.stream: TextIO = sys.stderr
        self.in_place = self.stream.isatty()
        self.show = self.in_place if show is None else show
        self.pause = 0.2 if self.in_place else 10.0
        self.written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the next `write` should come now."""
        return self.show and time.monotonic() - self.written >= self.pause

    def write(self, text: str) -> None:
        """Shows a text, if the line is shown at all."""
        if not self.show:
            return
        self.written = time.monotonic()
        self.stream.write(f"{text:<100}\r" if self.in_place else f"{text}\n")
        self.stream.flush()

    def close(self, text: str) -> None:
        """Shows the last text and ends the line."""
        self.write(text)
        if self.show and self.in_place:
            self.stream.write("\n")
            self.stream.flush()


class Interrupt:
    """Turns the first Ctrl-C into a request to stop at a good place; the second is raised."""

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
