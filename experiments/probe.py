"""A fresh process that measures its own first call or peak memory, and prints the number."""

import resource
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import sde_sgd as ss


def landscape(kind: str):
    """The landscapes of `throughput`, in float32."""
    if kind == "least_squares":
        data = ss.data.digits_regression(6, dtype=jnp.float32)
        return ss.LeastSquares(data.inputs, data.targets)
    data = ss.data.digits(test_fraction=0.0, dtype=jnp.float32)
    if kind == "logistic":
        return ss.LogisticRegression(data.inputs, data.targets, num_classes=10)
    model = eqx.nn.MLP(64, 10, 32, 1, activation=jax.nn.tanh, key=jr.key(0))
    return ss.EmpiricalRisk(model, data.inputs, data.targets, ss.cross_entropy)


def peak_gigabytes() -> float:
    """Largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def run(what: str, argument: str) -> float:
    """One probe: `first_call KIND` (s), `memory STEPS` (GB) or `mlp_memory` (GB)."""
    if what == "first_call":
        place, slowest = landscape(argument), 0.0
        sampling = ss.WithReplacement(8)
        processes = (
            ss.SGD(place, 0.05, sampling),
            ss.ModifiedEquation(place, 0.05, ss.MinibatchNoise(sampling), substeps=4),
        )
        for process in processes:
            theta = jnp.zeros(place.dimension, jnp.float32)
            started = time.perf_counter()
            ss.simulate(process, theta, num_steps=2, ensemble_size=16, key=jr.key(0))
            slowest = max(slowest, time.perf_counter() - started)
        return slowest
    if what == "memory":
        well = ss.double_well(jnp.asarray([[1.0]], jnp.float32))
        process = ss.SGD(well, 0.05, ss.WithReplacement(1))
        theta = jnp.asarray([-1.0], jnp.float32)
        measures = {"moments": ss.Moments()}
        steps = int(argument)
        ss.simulate(
            process, theta, num_steps=steps, ensemble_size=64, key=jr.key(0), measures=measures
        )
        return peak_gigabytes()
    place = landscape("mlp")
    noise = ss.MinibatchNoise(ss.WithReplacement(16))
    process = ss.ModifiedEquation(place, 0.05, noise, substeps=1)
    theta = jnp.zeros(place.dimension, jnp.float32)
    measures = {"loss": ss.Moments(of=place.loss, every=2)}
    ss.simulate(process, theta, num_steps=2, ensemble_size=4096, key=jr.key(0), measures=measures)
    return peak_gigabytes()


if __name__ == "__main__":
    print(run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
