"""Scaling rules: which hyperparameters keep the SDE when the batch grows from B to κB."""

from typing import Any, NamedTuple

import numpy as np

from sde_sgd._checks import check_number, check_whole, in_brief
from sde_sgd.processes.discrete.adaptive import AbstractAdaptive
from sde_sgd.types import RealLike


class ScaledSGD(NamedTuple):
    """η and B after scaling; run num_steps/κ iterations for the same time ηk."""

    learning_rate: float
    batch_size: int


def linear_scaling(
    learning_rate: RealLike, batch_size: int, kappa: RealLike, num_examples: int | None = None
) -> ScaledSGD:
    """η → κη, B → κB: the SDE dθ = −∇L dt + √(ηc) Σ^{1/2} dW is the same, for c = 1/B.

    SGD itself is not: it differs from its SDE by O(η). The rule ends where κη is unstable
    (`theory.stationary.largest_stable_learning_rate`), and for subsets drawn without
    replacement, c = (N−B)/(B(N−1)), it is off by the factor (N−κB)/(N−B).

    **Arguments:** `learning_rate` η; `batch_size` B; `kappa` κ > 0; `num_examples` N, if batches
    are drawn without replacement.

    **Raises:** `ValueError` for κ ≤ 0, a κB that is no whole number or exceeds N.

    **Source:** Goyal et al. 2017 (1706.02677); Smith, Le 2017 (1710.06451).
    """
    eta = check_number("learning_rate", learning_rate, above=0)
    kappa = check_number("kappa", kappa, above=0)
    batch_size = check_whole("batch_size", batch_size)
    if num_examples is not None:
        num_examples = check_whole("num_examples", num_examples)
    size = kappa * batch_size
    whole = int(np.rint(size))
    if whole < 1 or abs(size - whole) > 1e-9 * size:
        raise ValueError(
            f"kappa·batch_size = {kappa:g}·{batch_size} = {size:g} is no whole number of examples: "
            f"choose kappa as a multiple of 1/{batch_size}."
        )
    if num_examples is not None and whole > num_examples:
        raise ValueError(
            f"kappa·batch_size = {whole} exceeds the N={num_examples} examples there are: the rule "
            f"ends at kappa = {num_examples / batch_size:g}."
        )
    return ScaledSGD(kappa * eta, whole)


def square_root_scaling(optimizer: Any, kappa: RealLike) -> AbstractAdaptive:
    """η → √κ η, 1−β → κ(1−β), ε → ε/√κ when B → κB: the SDE on the clock t = η²k is the same.

    Cov(ĝ) falls to C/κ, and one iteration takes κ times as long: run num_steps/κ iterations. Exact
    for the SDEs without (∇L)² in v (`noise_dominated`) and SignSGD near g = 0; the discrete
    optimisers follow as far as their SDEs describe them.

    **Arguments:** `optimizer`: `Adam`, `RMSprop` or `SignSGD`; `kappa`: κ > 0.

    **Returns:** the optimiser of the same kind with scaled hyperparameters.

    **Raises:** `ValueError` where 1 − κ(1−β) < 0: a memory cannot be shorter than an iteration.

    **Source:** Malladi et al. 2022 (2205.10287), Definitions 5.1 and 5.2.
    """
    if not isinstance(optimizer, AbstractAdaptive):
        raise ValueError(
            f"square_root_scaling is for ss.Adam, ss.RMSprop and ss.SignSGD; got "
            f"{in_brief(optimizer)}. "
            f"For SGD there is ss.processes.linear_scaling."
        )
    kappa = check_number("kappa", kappa, above=0)
    for name in ("beta", "beta1", "beta2"):
        beta = getattr(optimizer, name, None)
        if beta is not None and 1 - kappa * (1 - float(beta)) < -1e-12:
            raise ValueError(
                f"The rule has no solution: 1 − κ(1 − {name}) = {1 - kappa * (1 - float(beta)):g} "
                f"is negative for κ={kappa:g}, {name}={float(beta):g}. Take κ ≤ "
                f"{1 / (1 - float(beta)):g}, or {name} ≥ {1 - 1 / kappa:g} to start from."
            )
    return optimizer.scaled(kappa)
