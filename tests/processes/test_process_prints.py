"""What a process prints: what its user typed, without what is as by default."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from tools import normal

import sde_sgd as ss

LANDSCAPE = ss.LeastSquares(normal(0, 8, 2), normal(1, 8))
BATCH = ss.WithReplacement(2)
NOISE = ss.MinibatchNoise(BATCH)
WHERE, DRAWN = "landscape=LeastSquares(N=8, d=2)", "sampling=WithReplacement(batch_size=2)"


def waning(k):
    return 0.1 / (1 + k)


def test_a_process_prints_its_arguments():
    told = [
        (
            ss.SGD(LANDSCAPE, 0.1, BATCH),
            f"SGD({WHERE}, learning_rate=0.1, {DRAWN})",
        ),
        (
            ss.SGD(LANDSCAPE, waning, BATCH, 0.9),
            f"SGD({WHERE}, learning_rate=waning, {DRAWN}, momentum=0.9)",
        ),
        (
            ss.OptaxSGD(LANDSCAPE, optax.adam(0.1), BATCH),
            f"OptaxSGD({WHERE}, optimizer=GradientTransformationExtraArgs, {DRAWN})",
        ),
        (
            ss.UnderdampedEquation(LANDSCAPE, 0.1, NOISE, 0.5, substeps=3),
            f"UnderdampedEquation({WHERE}, learning_rate=0.1, noise=MinibatchNoise({DRAWN}), "
            f"momentum=0.5, substeps=3)",
        ),
    ]
    assert [repr(process) for process, _ in told] == [text for _, text in told]
    assert repr(ss.Adam(0.1, beta1=0.5)) == "Adam(learning_rate=0.1, beta1=0.5)"


def test_stages_and_limits_print_what_is_inside():
    sgd, sde = ss.SGD(LANDSCAPE, 0.1, BATCH), ss.ModifiedEquation(LANDSCAPE, 0.1, NOISE)
    assert repr(sde.limit()) == f"ContinuousLimit(equation={sde!r})"
    assert repr(sgd) in repr(ss.Stages([sgd, sgd], [5, 5]))


def test_a_traced_process_prints_too():
    """Inside jit a number is not known, and its dtype is told."""
    seen = []

    @jax.jit
    def inside(eta):
        traced = eqx.tree_at(lambda p: p.learning_rate.value, sgd, eta)
        seen.append(repr(traced))
        return eta

    sgd = ss.SGD(LANDSCAPE, 0.1, BATCH)
    inside(jnp.asarray(0.1, jnp.float64))
    assert seen == [f"SGD({WHERE}, learning_rate=f64[], {DRAWN})"]
