"""Statements of the literature that are found not to hold, and the rows that say so.

One more statement is one more line of `STATEMENTS`: the experiment, the rows of its verdict, told
by a pattern of their names (and of their process, where it matters), the statement and its source.
"""

import dataclasses
import re
from collections.abc import Iterable

from ..results import Result, Row


@dataclasses.dataclass(frozen=True)
class Statement:
    """What somebody said, and which rows of which experiments hold it against a measurement."""

    says: str
    source: str
    rows: tuple[tuple[str, str], ...]
    """experiment, and a pattern that «process: name» of its rows has"""


@dataclasses.dataclass(frozen=True)
class Found:
    """A statement with the rows that are there."""

    statement: Statement
    rows: tuple[tuple[Result, Row], ...]
    missing: tuple[str, ...]
    """experiments without a result, or without such a row in it"""

    @property
    def fails(self) -> bool:
        """Whether a measured value disagrees with it."""
        return any(row.verdict == "disagrees" for _, row in self.rows)


STATEMENTS = (
    Statement(
        "The ratio η/B decides alone which minimum SGD selects, and how sharp it is.",
        "Jastrzebski et al. 2017 (1711.04623)",
        (
            ("sharp_or_flat_well", r"SGD: P\(sharp\).*against the SDE's"),
            ("final_sharpness", r"SGD: log sharpness, .* at η/B"),
        ),
    ),
    Statement(
        "A learning rate and a batch size multiplied by one factor leave the training as it was.",
        "Goyal et al. 2017 (1706.02677)",
        (("linear_scaling_breaks", r"(SGD|subsets), .*as at κ = 1$"),),
    ),
    Statement(
        "The stationary covariance of SGD solves HM + MH = ηcΣ(θ*).",
        "Mandt, Hoffman, Blei 2017 (1704.04289)",
        (("least_squares_exact_covariance", r"SGD: .*Ornstein–Uhlenbeck$"),),
    ),
    Statement(
        "With the noise of the minimum, HM + MH − ηHMH = ηcΣ(θ*) is the covariance at a finite "
        "learning rate.",
        "Liu, Ziyin, Ueda 2021 (2012.03636)",
        (
            ("least_squares_exact_covariance", r"SGD: .*finite η, constant noise$"),
            ("stationary_covariance", r"SGD: .*frozen noise$"),
        ),
    ),
    Statement(
        "The stationary law of SGD on (uwx − y)² is the density of the law of balance.",
        "Ziyin, Li, Ueda (2308.06671)",
        (("law_of_balance", r"SGD: .*(, law of balance|as the SDE)$"),),
    ),
    Statement(
        "The tail index of SGD on least squares is 2B/η − B.",
        'Gürbüzbalaban, Şimşekli, Zhu 2021, "The heavy-tail phenomenon in SGD"',
        (("heavy_tails_kesten", r"SGD: .*the published index$"),),
    ),
    Statement(
        "An estimate below 2, pooled over coordinates, shows that the noise of SGD is α-stable. "
        "It is read in Gaussian noise of the same covariance as well, whose index is 2.",
        "Şimşekli, Sagun, Gürbüzbalaban 2019 (1901.06053)",
        (("minibatch_noise_tails", r"Gaussian noise of Σ: .*: 2$"),),
    ),
    Statement(
        "SGD leaves a basin at the rate (L_s/L*)^{−(B/(ηh*) + 1 − n/2)}, and p ∝ L^{−φ} with "
        "φ = 1 + B/(ηh*).",
        "Mori, Ziyin, Liu, Ueda 2022 (2105.09557)",
        (("power_law_escape", r"(SGD|SDE)(, exact)?: .*Mori's( B.*)?$"),),
    ),
    Statement(
        "The logarithm of the escape time grows with B/η by 2ΔU (s/U″_min + (1 − s)/abs(U″_top)), "
        "s between 0 and 1.",
        "Xie, Sato, Sugiyama 2021 (2002.03495), theorem 3.2",
        (("flat_minima_escape_slower", r".*: .*exponent, Xie"),),
    ),
    Statement(
        "SGD leaves a minimum after the time that the SDE of its gradient covariance takes.",
        "the setting of Xie, Sato, Sugiyama 2021 (2002.03495)",
        (
            ("minibatch_noise_is_not_gaussian_here", r"SGD: the SDE's iterations"),
            ("escape_rate_vs_barrier", r"SGD: the SDE's time"),
        ),
    ),
    Statement(
        "Kramers' formula, the leading order in the noise, is the mean time at a finite barrier.",
        "Kramers 1940",
        (
            ("escape_rate_vs_barrier", r"SDE: Kramers' law$"),
            ("finite_learning_rate_escape", r"SDE: Kramers' law$"),
        ),
    ),
)


def find(results: Iterable[Result]) -> list[Found]:
    """Every statement with its rows, those that fail first."""
    by_name = {result.experiment: result for result in results}
    found = []
    for statement in STATEMENTS:
        rows, missing = [], []
        for experiment, pattern in statement.rows:
            result = by_name.get(experiment)
            own = [] if result is None else [row for row in result.rows if _says(row, pattern)]
            rows += [(result, row) for row in own]
            missing += [] if own else [experiment]
        found.append(Found(statement, tuple(rows), tuple(missing)))
    return sorted(found, key=lambda one: not one.fails)


def _says(row: Row, pattern: str) -> bool:
    return re.match(pattern, f"{row.process}: {row.name}") is not None
