"""What a long computation has to do with a terminal: a line of progress, Ctrl-C as a request."""

import signal
import sys
import threading
import time
from typing import Any

from sde_sgd._checks import check_progress


class StatusLine:
    """A line on stderr: rewritten in place on a terminal, a new one now and then in a log.

    `show=None` shows it where stderr is a terminal. What stderr cannot show is written as "?", and
    a stderr that is missing, closed or broken costs the line, not the run.
    """

    def __init__(self, show: bool | None):
        check_progress(show)
        self.stream: Any = sys.stderr
        self.in_place = _is_terminal(self.stream)
        self.show = self.in_place if show is None else show
        self.pause = 0.2 if self.in_place else 10.0
        self.written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the next `write` should come now."""
        return self.show and time.monotonic() - self.written >= self.pause

    def write(self, text: str) -> None:
        """Shows a text, if the line is shown at all."""
        if self.show:
            self.written = time.monotonic()
            self._put(f"{text:<100}\r" if self.in_place else f"{text}\n")

    def close(self, text: str) -> None:
        """Shows the last text and ends the line."""
        self.write(text)
        if self.show and self.in_place:
            self._put("\n")

    def _put(self, text: str) -> None:
        try:
            encoding = getattr(self.stream, "encoding", None) or "utf-8"
            self.stream.write(text.encode(encoding, "replace").decode(encoding))
            if hasattr(self.stream, "flush"):
                self.stream.flush()
        except Exception:
            self.show = False


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except Exception:
        return False


class Interrupt:
    """Turns the first Ctrl-C into a request to stop at a good place; the second is raised.

    The rule: Ctrl-C is never swallowed. A run that has iterations left returns what it has, with
    a warning; one that Ctrl-C found in its last stretch is complete, and a `KeyboardInterrupt`
    that carries it is raised (`ended`), so that a loop of short runs ends.

    With `saves` SIGTERM is a request too: the run saves itself, and then the signal does what it
    would have done at once. A Ctrl-C that is ignored stays ignored; other threads than the main
    one get no signals.

    What one run inside another was asked is told to the outer one, as soon as the inner has ended.
    `at_once` is for an outer one that has no good place of its own, such as a program of several
    runs: the run under way saves itself, and then Ctrl-C is raised.
    """

    def __init__(self, saves: bool = False, at_once: bool = False):
        self.requested = False
        self.terminated = False
        self._at_once = at_once
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
        around = getattr(self._previous.get(signal.SIGINT), "__self__", None)
        if self.terminated:
            signal.raise_signal(signal.SIGTERM)
        elif self.requested and isinstance(around, Interrupt):
            around._handle(signal.SIGINT)

    def _handle(self, number: int, frame: Any = None) -> None:
        if number == signal.SIGTERM:
            self.terminated = True
        elif self.requested or self._at_once:
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
