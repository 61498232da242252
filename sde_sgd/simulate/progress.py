"""One line on the terminal: how far, how fast, how long."""

import math
import time

from sde_sgd.simulate.forecast import duration, Forecast
from sde_sgd.terminal import StatusLine

# Seconds from which on a run says beforehand what it will take.
_LONG = 60


class Progress:
    """Writes «name 1200/2000 iterations, 3.1e+06 member-iterations/s, 12 s left» to stderr.

    `show=None` shows it where stderr is a terminal. What stderr cannot show is written as "?", and
    a stderr that is missing, closed or broken costs the line, not the run.
    """

    def __init__(self, name: str, members: int, first: int, last: int, show: bool | None):
        self.line = StatusLine(show)
        self.name, self.members, self.first, self.last = name, members, first, last
        self.started = self.measured = time.monotonic()
        self.done = first
        self.line.write(f"{name}: compiling …")

    def update(self, done: int, note: str = "") -> None:
        """Reports that `done` iterations are complete."""
        now = time.monotonic()
        rate = (done - self.done) / max(now - self.measured, 1e-9)
        self.done, self.measured = done, now
        if self.line.due:
            left = (self.last - done) / max(rate, 1e-9)
            self.line.write(
                f"{self.name}: {done}/{self.last} iterations, "
                f"{rate * self.members:.2g} member-iterations/s, {left:.0f} s left{note}"
            )

    def part(self, groups: int, all_groups: int) -> None:
        """Reports that some of the groups of members that move in turn are further."""
        if groups < all_groups and self.line.due:
            self.line.write(
                f"{self.name}: {self.done}/{self.last} iterations, then {groups}/{all_groups} "
                f"groups of members"
            )

    def announce(self, forecast: Forecast) -> None:
        """Says in a line of its own what a long run will take."""
        if not self.line.show or forecast.seconds < _LONG:
            return
        text = f"{self.name}: about {duration(forecast.seconds)} and {forecast.bytes / 1e9:.2g} GB"
        if math.isfinite(forecast.gradients_over_sgd):
            text += (
                f", {forecast.gradients_over_sgd:.3g} times the gradients of SGD with these batches"
            )
        self.line.close(text)

    def close(self) -> None:
        """Ends the line."""
        seconds = time.monotonic() - self.started
        self.line.close(f"{self.name}: {self.done}/{self.last} iterations in {seconds:.1f} s")
