"""Ctrl-C and SIGTERM as requests, so that a run ends between two iterations."""

import signal
import threading
from typing import Any


class Interrupt:
    """Turns the first Ctrl-C into a request to stop after the segment; the second is raised.

    The rule: Ctrl-C is never swallowed. A run that has iterations left returns what it has, with
    a warning; one that Ctrl-C found in its last stretch is complete, and a `KeyboardInterrupt`
    that carries it is raised (`ended`), so that a loop of short runs ends.

    With `saves` SIGTERM is a request too: the run saves itself, and then the signal does what it
    would have done at once. A Ctrl-C that is ignored stays ignored; other threads than the main
    one get no signals.
    """

    def __init__(self, saves: bool = False):
        self.requested = False
        self.terminated = False
        self._signals = (signal.SIGINT, signal.SIGTERM) if saves else (signal.SIGINT,)
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                # None: a handler that was not set in Python, and could not be put back.
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        if self.terminated:
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGTERM:
            self.terminated = True
        elif self.requested:
            raise KeyboardInterrupt
        self.requested = True


def ended(name: str, result: Any) -> KeyboardInterrupt:
    """What to raise for a Ctrl-C that came when all was done; it carries the result."""
    error = KeyboardInterrupt(
        f"{name} was complete when Ctrl-C came: the whole result is this error's .result "
        f"(sys.last_value.result in a session)."
    )
    error.result = result  # pyright: ignore[reportAttributeAccessIssue]
    return error
