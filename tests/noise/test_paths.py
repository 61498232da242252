"""The Brownian path on the iteration clock: increments are draws, whatever the base."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from sde_sgd.noise.paths import IterationNoise
from sde_sgd.random.draws import Draws, Stream

KEY = jr.key(22)
SIZE = 3


def path(base=0, substeps=4, increments="gaussian", dtype=jnp.float64, **options):
    draws = Draws.create(KEY, 7, jnp.uint32(base))
    return IterationNoise(
        draws, size=SIZE, substeps=substeps, increments=increments, dtype=dtype, **options
    )


def numbers(iteration, substep, dtype=jnp.float64, stream=Stream.NOISE):
    return Draws.create(KEY, 7, jnp.uint32(iteration), substep).normal((SIZE,), stream, dtype)


def all_increments(noise, iterations, dtype=jnp.float64):
    """(steps, k) increments over the solver steps of the first iterations, times in a dtype."""
    index = jnp.arange(iterations * noise.substeps)
    start = (index / noise.substeps).astype(dtype)
    stop = ((index + 1) / noise.substeps).astype(dtype)
    return jax.jit(jax.vmap(noise.evaluate))(start, stop)


@pytest.mark.parametrize(
    "substeps, dtype", [(1, jnp.float64), (3, jnp.float32), (4, jnp.float32), (10, jnp.float64)]
)
def test_increments_are_the_draws_of_their_step(substeps, dtype):
    """ΔW over step j of iteration base + i is √(1/m)·ξ(base + i, j), i·m + j = round(t·m)."""
    iteration, substep = jnp.divmod(jnp.arange(5 * substeps), substeps)

    @jax.jit
    def both(base):
        noise = path(base, substeps, dtype=dtype)
        draws = jax.vmap(lambda i, j: numbers(base + i.astype(jnp.uint32), j, dtype))
        return all_increments(noise, 5, dtype), draws(iteration, substep) / np.sqrt(substeps)

    for base in (0, 2**24 + 1, 2**31 - 3):
        increments, expected = both(jnp.uint32(base))
        assert increments.dtype == dtype
        tolerance = 4 * np.finfo(dtype).eps
        np.testing.assert_allclose(increments, expected, rtol=tolerance, atol=tolerance)
        assert len(np.unique(np.asarray(increments), axis=0)) == 5 * substeps


def test_late_times_in_float32_find_their_step():
    """t up to 10⁵ in float32, 4 steps an iteration: still the draws of (base + i, j)."""
    noise = path(2**24 + 1, 4, dtype=jnp.float32)
    iterations = jnp.array([1, 4095, 65_536, 99_999])
    start = jnp.concatenate([iterations + j / 4 for j in range(4)]).astype(jnp.float32)
    increments = jax.jit(jax.vmap(noise.evaluate))(start, start + jnp.float32(0.25))
    for row, (j, i) in zip(increments, [(j, i) for j in range(4) for i in iterations], strict=True):
        expected = 0.5 * numbers(2**24 + 1 + int(i), j, jnp.float32)
        np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_a_later_base_continues_the_path():
    """path(base)(n + s) = path(base + n)(s), bit for bit."""
    early = all_increments(path(10), 8)
    late = all_increments(path(13), 5)
    np.testing.assert_array_equal(early[12:], late)


def test_two_point_increments():
    """ΔW = ±√(1/m), the signs of `two_point`."""
    increments = all_increments(path(increments="two_point"), 3)
    np.testing.assert_array_equal(np.abs(increments), 0.5)
    signs = Draws.create(KEY, 7, 2, 1).two_point((SIZE,), Stream.TWO_POINT)
    np.testing.assert_array_equal(increments[9], 0.5 * signs)


@pytest.mark.parametrize("increments", ["gaussian", "two_point"])
def test_refined_increments_sum_those_of_the_finer_path(increments):
    """ΔW of substeps m, refinement r is the sum of r increments of substeps m·r."""
    coarse = all_increments(path(5, 2, increments, refinement=3), 4)
    fine = all_increments(path(5, 6, increments), 4)
    np.testing.assert_allclose(coarse, fine.reshape(8, 3, SIZE).sum(1), rtol=1e-14, atol=1e-15)


def test_space_time_areas_are_of_another_stream():
    """(ΔW, H) with H = √(Δt/12)·ξ', ξ' of its own stream."""
    noise = path(levy_area=dfx.SpaceTimeLevyArea)
    both = noise.evaluate(1.25, 1.5, use_levy=True)
    np.testing.assert_allclose(both.W, 0.5 * numbers(1, 1), rtol=1e-15)
    area = np.sqrt(0.25 / 12) * numbers(1, 1, stream=Stream.LEVY_AREA)
    np.testing.assert_allclose(both.H, area, rtol=1e-15)
    assert float(both.dt) == 0.25
    plain = path().evaluate(1.25, 1.5, use_levy=True)
    assert type(plain) is dfx.BrownianIncrement
    np.testing.assert_array_equal(plain.W, both.W)


@pytest.mark.parametrize(
    "start, stop",
    [(0.0, 0.5), (0.0, 0.125), (0.125, 0.375), (0.25, 0.0), (-0.25, 0.0), (3.1, 3.35)],
)
def test_other_intervals_have_no_increment(start, stop):
    """Anything but one solver step that starts on the grid stops with the way out."""
    with pytest.raises(Exception, match=r"dt0=1/4"):
        eqx.filter_jit(path().evaluate)(start, stop)


def test_a_value_at_a_time_does_not_exist():
    """W_t itself is not known: only increments."""
    with pytest.raises(ValueError, match="no values at a time"):
        path().evaluate(0.25)


def test_float32_times_end_where_the_grid_would_be_lost():
    """Beyond 2²¹ steps float32 times are refused rather than rounded."""
    start = jnp.float32(2**20)
    with pytest.raises(Exception, match="later base iteration"):
        eqx.filter_jit(path().evaluate)(start, start + jnp.float32(0.25))


@pytest.mark.parametrize("dt0", [0.5, 0.3])
def test_solving_with_another_step_is_an_error(dt0):
    """diffeqsolve with dt0 ≠ 1/substeps stops with the way out."""
    terms = dfx.MultiTerm(
        dfx.ODETerm(lambda t, y, args: -y),
        dfx.ControlTerm(lambda t, y, args: jnp.ones((1, SIZE)), path()),
    )
    with pytest.raises(Exception, match=r"dt0=1/4"):
        dfx.diffeqsolve(terms, dfx.Euler(), 0.0, 3.0, dt0, jnp.ones(1))
