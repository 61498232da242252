"""A rate beyond what a process can hold is refused, or warned of, before the first step."""

import gc
import warnings

import closed_forms
import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.simulate import stability

BATCH = 4
# Σx⁴ is far above (Σx²)²/N: with one example a step the noise, not the mean, sets the limit.
LINE, HEIGHTS = np.array([[2.0], [0.5], [0.3], [0.4], [0.6]]), np.array([0.5, 1.0, -1.0, 0.4, 0.2])
ONE = ss.WithReplacement(1)


def least_squares():
    return ss.LeastSquares(normal(1, 16, 3), normal(2, 16))


def logistic():
    return ss.LogisticRegression(normal(1, 16, 2), np.arange(16) % 2, num_classes=2)


def line():
    return ss.LeastSquares(LINE, HEIGHTS)


LINES = line()


def sgd(rate=0.1, landscape=None, sampling=None, momentum=0.0):
    landscape = least_squares() if landscape is None else landscape
    return ss.SGD(landscape, rate, sampling or ss.WithReplacement(BATCH), momentum)


def sde(rate):
    return ss.ModifiedEquation(*_gaussian(rate), substeps=4)


def simulate(process, **changes):
    theta0 = jnp.zeros(process.landscape.dimension)
    options = dict(num_steps=2, ensemble_size=6, key=jr.key(0)) | changes
    return ss.simulate(process, theta0, **options)


def runs_without_a_word(process, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return simulate(process, **changes)


def most_stable(momentum=0.0, step_ratio=1.0):
    return closed_forms.largest_stable(
        np.asarray(least_squares().data[0]),
        noise_factor=1 / BATCH,
        momentum=momentum,
        step_ratio=step_ratio,
    )


@pytest.mark.parametrize(
    ("make", "threshold"),
    [
        (sgd, {}),
        (lambda rate: sgd(rate, momentum=0.9), {"momentum": 0.9}),
        (sde, {"step_ratio": 1 / 4}),
        (lambda rate: ss.GaussianSGD(*_gaussian(rate)), {}),
    ],
    ids=["SGD", "momentum", "SDE", "Gaussian SGD"],
)
def test_mean_square_stability_of_least_squares(make, threshold):
    """η above the largest stable rate is refused, η below it runs: ±1 % around the threshold."""
    most = most_stable(**threshold)
    with pytest.raises(ValueError, match="beyond the mean-square stability"):
        simulate(make(1.01 * most))
    assert runs_without_a_word(make(0.99 * most)).complete


def _gaussian(rate):
    return least_squares(), rate, ss.MinibatchNoise(ss.WithReplacement(BATCH))


def test_the_threshold_is_below_that_of_the_mean():
    """Control: the rate that is refused would pass η < 2/λ_max, the condition of the mean."""
    hessian = least_squares().hessian(jnp.zeros(3))
    assert 1.01 * most_stable() < 2 / float(jnp.linalg.eigvalsh(hessian)[-1])


def test_epochs_can_be_stable_beyond_it():
    """x² = 1, 3, B = 1: epochs contract by (1 − η)(1 − 3η), to η = 4/3; single draws to 4/5."""
    landscape = ss.LeastSquares(np.sqrt([[1.0], [3.0]]), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="beyond the mean-square stability"):
        simulate(sgd(1.2, landscape, ss.WithReplacement(1)))
    with pytest.warns(UserWarning, match="exceeds 2 at the first start"):
        run = simulate(sgd(1.2, landscape, ss.RandomReshuffling(1)), num_steps=2000)
    assert np.abs(run.positions).max() < 100


def test_elsewhere_a_huge_rate_is_a_warning():
    """Logistic regression: η λ_max > 2 at the start warns, and the run goes on."""
    with pytest.warns(UserWarning, match=r"η λ_max/.* exceeds 2"):
        assert simulate(sgd(1e3, logistic())).complete
    runs_without_a_word(sgd(0.1, logistic()))


@pytest.mark.parametrize("landscape", ["quadratic", "network"])
def test_momentum_overshoots_later(landscape):
    """λ = 1, μ = .9: heavy ball overshoots beyond η = 2(1 + μ) = 3.8: for ever on a quadratic."""
    start, parts = jnp.zeros((6, 1)), {"quadratic": ss.quadratic([[1.0]], [[0.0]])}
    parts["network"] = heavy(0, 128.0)
    slow, fast = (sgd(rate, parts[landscape], ONE, 0.9) for rate in (3.7, 3.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stability.judge_stability(slow, start, "sample")
    if landscape == "quadratic":
        with pytest.raises(ValueError, match=r"grows without bound; it is stable below 3\.8,"):
            stability.judge_stability(fast, start, "sample")
    else:
        with pytest.warns(UserWarning, match="= 2.05 exceeds 2"):
            stability.judge_stability(fast, start, "sample")


def heavy(example, curvature):
    """ℓ_i = ½(θx_i)², x_i = 0 but for one of 300 examples: λ = curvature/300."""
    inputs = np.zeros(300)
    inputs[example] = np.sqrt(curvature)
    model = eqx.nn.Linear("scalar", "scalar", use_bias=False, key=jr.key(0))
    return ss.EmpiricalRisk(model, inputs, np.zeros(300), lambda p, y: (p - y) ** 2 / 2)


def test_a_sample_of_the_examples_is_looked_at():
    """The heavy first of 300 has λ = 384/128 = 3 in a sample of 128, and 1.28 in all of them."""
    process = sgd(1.0, heavy(0, 384.0))
    with pytest.warns(UserWarning, match=r"= 3 exceeds 2 at the first start on 128 of 300 ex"):
        stability.judge_stability(process, jnp.zeros((6, 1)), "sample")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for examples in ("full", False):
            stability.judge_stability(process, jnp.zeros((6, 1)), examples)


def test_all_examples_are_looked_at_if_asked():
    """The heavy second of 300, λ = 3, is not in the sample."""
    process = sgd(1.0, heavy(1, 900.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stability.judge_stability(process, jnp.zeros((6, 1)), "sample")
    with pytest.warns(UserWarning, match="= 3 exceeds 2 at the first start, so"):
        simulate(process, check_stability="full")


def test_nothing_is_looked_at_if_asked():
    """False: least squares beyond its limit runs; other words are refused."""
    process = sgd(1.01 * most_stable())
    assert runs_without_a_word(process, check_stability=False).complete
    for word in ("none", True):
        with pytest.raises(ValueError, match=f"check_stability must be .* False; got {word!r}"):
            stability.judge_stability(process, jnp.zeros((6, 3)), word)  # pyright: ignore


def test_an_eigenvalue_is_asked_for_once(monkeypatch):
    """Of each landscape, start and number of examples; forgotten with its landscape."""
    asked = []

    def count(landscape, rows, theta):
        asked.append(None if rows is None else len(rows))
        return jnp.asarray(5.0)

    monkeypatch.setattr(stability, "_power_iteration", count)
    landscape, starts = heavy(0, 1.0), jnp.zeros((6, 1))
    known = len(stability._KNOWN)

    def judge(process, theta, examples="sample"):
        with pytest.warns(UserWarning, match="= 5 exceeds 2"):
            stability.judge_stability(process, theta, examples)

    for rate in (1.0, 1.0, 2.0):
        with pytest.warns(UserWarning, match=f"= {5 * rate:g} exceeds 2"):
            stability.judge_stability(sgd(rate, landscape), starts, "sample")
    assert asked == [128]
    judge(sgd(1.0, landscape), starts, "full")
    judge(sgd(1.0, landscape), starts + 1)
    judge(sgd(1.0, landscape), starts + jnp.arange(6.0)[:, None])  # the first start is as before
    judge(sgd(1.0, heavy(0, 1.0)), starts)
    assert asked == [128, None, 128, 128]
    del landscape
    gc.collect()
    assert len(stability._KNOWN) <= known


CLIMB = r"λ_max\(1 \+ ρ λ_max\).* = 2.5 exceeds 2"


def sam(rate, radius, **options):
    return ss.SAM(line(), rate, radius, ONE, **options)


def sam_equation(rate, radius, **options):
    return ss.SAMEquation(line(), rate, radius, ss.MinibatchNoise(ONE), **options)


def limit(radius, substeps=None):
    """2E q/E q², q = x² + ρx⁴; of Euler's step at η/m 2E q/(Var q + (E q)²/m)."""
    q = LINE[:, 0] ** 2 * (1 + radius * LINE[:, 0] ** 2)
    spread = np.mean(q**2) if substeps is None else np.var(q) + q.mean() ** 2 / substeps
    return 2 * q.mean() / spread


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda rate: sam(rate, 0.1), limit(0.1)),
        (lambda rate: sam_equation(rate, 0.1, substeps=1), limit(0.1)),
        (lambda rate: sam_equation(rate, 0.1, substeps=8), limit(0.1, 8)),
        # η = .03 is below 2/E q, so that the mean decays there, and far beyond the limit.
        (lambda rate: sam(rate, 20.0), limit(20.0)),
        # Normalised, the kick is bounded: SGD's limit.
        (lambda rate: sam(rate, 20.0, normalized=True), limit(0.0)),
    ],
    ids=["SAM", "its equation at η", "its equation", "a large radius", "normalised"],
)
def test_sharpness_aware_minimisation(make, most):
    """Each at its own limit at B = 1: ±1 % around it."""
    with pytest.raises(ValueError, match="beyond the mean-square stability of SAM"):
        simulate(make(1.01 * most))
    assert runs_without_a_word(make(0.99 * most)).complete


def test_the_rate_that_sgd_could_hold():
    """(η, ρ) = (.5, .1): E(1 − ηq)² = 1.28 a step, below SGD's limit .599 and beyond SAM's .410."""
    q = LINE[:, 0] ** 2 * (1 + 0.1 * LINE[:, 0] ** 2)
    assert np.mean((1 - 0.5 * q) ** 2) > 1.2 and limit(0.1) < 0.5 < limit(0.0)
    with pytest.raises(ValueError, match=r"stable below 0\.410297"):
        simulate(sam(0.5, 0.1))


@pytest.mark.parametrize("radius", [20.0, 200.0])
def test_a_radius_at_which_the_mean_grows(radius):
    """ηE q > 2 makes E θ grow: refused, whatever η SGD could hold."""
    q = LINE[:, 0] ** 2 * (1 + radius * LINE[:, 0] ** 2)
    rate = 2.1 / q.mean()
    for process in (sam(rate, radius), sam_equation(rate, radius, substeps=1)):
        with pytest.raises(ValueError, match="beyond the mean-square stability of SAM"):
            simulate(process)


def test_sam_overshoots_elsewhere():
    """λ = η = 1: η λ(1 + ρλ) is 2.5 at ρ = 1.5, for ever on a quadratic, and 1.5 at ρ = .5."""
    landscape, network = ss.quadratic([[1.0]], [[0.0]]), heavy(0, 128.0)
    for make in (ss.SAM, ss.SAMEquation):
        part = ONE if make is ss.SAM else ss.MinibatchNoise(ONE)
        options = {} if make is ss.SAM else {"substeps": 1}
        for place, told in (
            (landscape, pytest.raises(ValueError, match=CLIMB + ".* for ever")),
            (network, pytest.warns(UserWarning, match=CLIMB)),
        ):
            with told:
                simulate(make(place, 1.0, 1.5, part, **options))
        runs_without_a_word(make(landscape, 1.0, 0.5, part, **options))


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: ss.OverdampedEquation(line(), rate / 2, _noise(), 0.5, substeps=1),
        lambda rate: ss.ModifiedEquation(
            line(), rate, ss.ThermalNoise(_noise(), 0.1, rate), substeps=1
        ),
        lambda rate: ss.DrivenEquation(line(), rate, _noise(), ss.noise.WhiteNoise(), substeps=1),
        lambda rate: ss.OverdampedEquation(line(), rate, _noise(), 0.0, substeps=1),
        lambda rate: ss.Stages([sgd(r, LINES, ONE) for r in (0.1, rate)], [1, 9]),
        lambda rate: ss.SVAG(line(), rate, ONE, 1),
        lambda rate: ss.SGLD(line(), rate, ONE, 0.1),
    ],
    ids=["overdamped", "with a bath", "white noise", "μ = 0", "a later stage", "SVAG", "SGLD"],
)
def test_one_euler_step_a_rate(make):
    """Euler at η, or η/(1 − μ), with minibatch noise has SGD's limit .599, below 2/λ = 2.06."""
    with pytest.raises(ValueError, match="beyond the mean-square stability"):
        simulate(make(0.605))
    assert runs_without_a_word(make(0.593)).complete


def _noise():
    return ss.MinibatchNoise(ONE)


def test_what_has_no_limit_of_that_kind():
    """Noise that adds up to zero, and a flow without noise, are not judged by white noise's."""
    driven = ss.DrivenEquation(line(), 0.7, _noise(), ss.noise.epoch_noise(5), substeps=1)
    assert runs_without_a_word(driven).complete
    score = ss.theory.equations.FunctionScore(lambda t, x: -x, 1)
    flow = ss.ProbabilityFlow(line(), 0.7, _noise(), score)
    assert runs_without_a_word(flow).complete
