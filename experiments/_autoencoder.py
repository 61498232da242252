"""An autoencoder of two matrices on digits, and the laws of the entries of both.

x̂ = W₂ tanh(W₁x), p inputs (digits along their first principal directions), m hidden units: W₁
(m, p) leads into the bottleneck, W₂ (p, m) out of it. Entries start as independent N(0, s²).
Hidden units may be exchanged, so that the entries of one matrix that belong to one direction have
one law: 2p laws in all, the groups. The sign of a hidden unit may be changed in both matrices at
once, so that each law is symmetric; the product of all 2p laws then has E W₂ = 0 for good.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import sde_sgd as ss
from sde_sgd.theory.laws import GridDensity
from sde_sgd.theory.matrices import EntryCoefficients

BOX = (-4.0, 4.0)
MATRICES = ("encoder", "decoder")
# Mass that the laws may lose at its sides: a hundredth of any sampling floor here.
TOLERANCE = 1e-4
EDGES = np.linspace(-1.6, 1.6, 25)


class Autoencoder(eqx.Module):
    """x̂ = W₂ tanh(W₁x)."""

    encoder: Float[Array, "units inputs"]
    decoder: Float[Array, "inputs units"]

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " inputs"]:
        return self.decoder @ jnp.tanh(self.encoder @ x)


class Size(NamedTuple):
    """p, m, N and s."""

    inputs: int
    units: int
    num_examples: int
    spread: float


@functools.cache
def landscape(size: Size) -> ss.EmpiricalRisk:
    """½|x̂ − x|² on N digits."""
    data = ss.data.digits(scaling="unit", principal_directions=size.inputs, test_fraction=0.0)
    x = data.inputs[: size.num_examples]
    shape = (size.units, size.inputs)
    model = Autoencoder(jnp.zeros(shape, x.dtype), jnp.zeros(shape[::-1], x.dtype))
    return ss.EmpiricalRisk(model, x, x, ss.squared_error)


def groups(size: Size) -> list[np.ndarray]:
    """Indices in θ of the entries of W₁ for each direction, then of those of W₂."""
    number = size.inputs * size.units
    encoder = np.arange(number).reshape(size.units, size.inputs)
    decoder = number + np.arange(number).reshape(size.inputs, size.units)
    return [*encoder.T, *decoder]


def matrices(size: Size, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """W₁ (..., m, p) and W₂ (..., p, m) of θ (..., d)."""
    number, shape = size.inputs * size.units, (size.units, size.inputs)
    first, second = theta[..., :number], theta[..., number:]
    lead = theta.shape[:-1]
    return first.reshape(*lead, *shape), second.reshape(*lead, *shape[::-1])


def alignment(size: Size, theta: np.ndarray) -> np.ndarray:
    """tr(W₂W₁)/(|W₁||W₂|) ∈ [−1, 1], (..., d) → (...): the cosine of W₁ and W₂ᵀ."""
    first, second = matrices(size, theta)
    norms = np.linalg.norm(first, axis=(-2, -1)) * np.linalg.norm(second, axis=(-2, -1))
    return trace(size, theta) / norms


def trace(size: Size, theta: np.ndarray) -> np.ndarray:
    """tr(W₂W₁), (..., d) → (...)."""
    first, second = matrices(size, theta)
    return np.einsum("...ij,...ji->...", second, first)


def shown_input(size: Size) -> np.ndarray:
    """The example of largest norm."""
    x = np.asarray(landscape(size).data[0])
    return x[np.argmax((x**2).sum(axis=1))]


def share(size: Size, theta: np.ndarray) -> np.ndarray:
    """r = x·x̂(x)/|x|² at `shown_input`, (..., d) → (...): 1 if x comes back whole."""
    first, second = matrices(size, theta)
    x = shown_input(size)
    hidden = np.tanh(first @ x)
    return np.einsum("i,...ij,...j->...", x, second, hidden) / (x @ x)


def start_density(size: Size):
    """N(0, s²) as a function of one entry, (1,) → ()."""
    s = size.spread
    return lambda w: jnp.exp(-(w[0] ** 2) / (2 * s**2)) / (s * jnp.sqrt(2 * jnp.pi))


def starts(size: Size, cells: int) -> list[GridDensity]:
    """The start of every group on the grid."""
    still = ss.processes.Diffusion(0.0, 0.0)
    one = ss.theory.laws.FokkerPlanck(still, BOX, cells).propagate(start_density(size), [0.0])
    return one * (2 * size.inputs)


def trace_after_step(size: Size, eta: float, batch: int) -> Callable:
    """θ ↦ E tr(W₂W₁) after one iteration of SGD from θ, exact.

    tr((W₂ − ηg₂)(W₁ − ηg₁)) + η²c Σ_ij Σ_{(W₁)ij,(W₂)ji}.
    """
    risk, noise = landscape(size), ss.MinibatchNoise(ss.WithReplacement(batch))
    first, second = (x.ravel() for x in matrices(size, np.arange(risk.dimension)))
    shape = (size.units, size.inputs)

    def mean(theta):
        moved = theta - eta * risk.gradient(theta)
        product = moved[second].reshape(shape[::-1]) @ moved[first].reshape(shape)
        cross = noise.covariance(theta, risk)[np.ix_(first, second)]
        # Column (j, i) of W₂ beside row (i, j) of W₁.
        paired = cross.reshape(*shape, *shape[::-1])
        return jnp.trace(product) + eta**2 * jnp.einsum("ijji->", paired)

    return jax.jit(mean)


def one_step_trace(size: Size, eta: float, batch: int, cells: int, num_points: int) -> float:
    """The mean of `trace_after_step` over points of the start's law."""
    points = ss.theory.matrices.product_points(starts(size, cells), groups(size), num_points)
    mean = trace_after_step(size, eta, batch)
    return float(np.mean(jax.lax.map(mean, jnp.asarray(points), batch_size=1024)))


def pooled(densities: Sequence[GridDensity], size: Size) -> dict[str, GridDensity]:
    """The law of an entry drawn at random from each matrix."""
    p, found = size.inputs, {}
    for place, name in enumerate(MATRICES):
        part = densities[place * p : (place + 1) * p]
        values = np.mean([d.values for d in part], axis=0)
        found[name] = GridDensity(part[0].grid, values, 0.0, np.zeros((1, 2)), 0.0)
    return found


def entries(size: Size, theta: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One entry of each matrix, drawn at random for each member, (times, members, d) → 2 × (…)."""
    number, members = size.inputs * size.units, np.arange(theta.shape[1])
    found = {}
    for place, name in enumerate(MATRICES):
        chosen = place * number + rng.integers(number, size=len(members))
        found[name] = theta[:, members, chosen]
    return found


def variation(first, second) -> float:
    """Total variation of two laws (cdf's) or samples on the cells of EDGES and outside."""
    cells = []
    for law in (first, second):
        if hasattr(law, "cdf"):
            heights = law.cdf(EDGES)
        else:
            heights = np.searchsorted(np.sort(law), EDGES, side="right") / len(law)
        cells.append(np.diff(np.concatenate([[0.0], heights, [1.0]])))
    return 0.5 * float(np.abs(cells[0] - cells[1]).sum())


class Averages:
    """Rates of every entry at the members θ (times, members, d), ready to be averaged.

    Both signs of all hidden units count, which leave the law and L as they are: θ and −θ, drifts
    of opposite sign, one diffusion.
    """

    def __init__(self, size: Size, noise: ss.AbstractGradientNoise, eta: float, theta: np.ndarray):
        self.groups, self.theta = groups(size), theta
        self.rates = [
            ss.theory.matrices.entry_rates(landscape(size), noise, x, learning_rate=eta)
            for x in theta
        ]

    def table(self, num_knots: int, members: slice = slice(None)) -> list[EntryCoefficients]:
        """Averages given one entry, at each time, over some of the members."""
        found = []
        for theta, rates in zip(self.theta, self.rates, strict=True):
            drift, diffusion = (rate[members] for rate in rates)
            both = np.concatenate([theta[members], -theta[members]])
            pair = np.concatenate([drift, -drift]), np.concatenate([diffusion, diffusion])
            made = ss.theory.matrices.fit_entries(both, pair, self.groups, num_knots=num_knots)
            found.append(made)
        return found


def evolve(
    size: Size, table: Sequence[EntryCoefficients], times: np.ndarray, cells: int
) -> list[list[GridDensity]]:
    """Densities of the groups at `times`."""
    return ss.theory.matrices.evolve_entries(
        table, times, starts(size, cells), box=BOX, cells=cells, mass_tolerance=TOLERANCE
    )


def end_of_some(
    size: Size, table: Sequence[EntryCoefficients], times: np.ndarray, cells: int
) -> list[GridDensity]:
    """The same for the first direction of both matrices, at the last time: for the errors."""
    kept = [0, size.inputs]
    part = [EntryCoefficients(t.knots[kept], t.drift[kept], t.diffusion[kept]) for t in table]
    start = starts(size, cells)[:2]
    return ss.theory.matrices.evolve_entries(
        part, times, start, box=BOX, cells=cells, mass_tolerance=TOLERANCE
    )[-1]
