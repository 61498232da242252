"""Sides of different update rules are refused, by what an optimiser does with given gradients."""

import optax
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.processes.batches import noise_factor
from sde_sgd.processes.rules import different_rules
from sde_sgd.side_by_side.sides import check_sides, differences

ETA = 0.1
INPUTS = normal(0, 8, 2)
LANDSCAPE = ss.LeastSquares(INPUTS, INPUTS[:, 0])
SAMPLING = ss.WithReplacement(2)
NOISE = ss.MinibatchNoise(SAMPLING)
SDE = ss.ModifiedEquation(LANDSCAPE, ETA, NOISE)


def driven(optimizer, clock=ETA):
    return ss.OptaxSGD(LANDSCAPE, optimizer, SAMPLING, learning_rate=clock)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(ETA),
        optax.sign_sgd(ETA),
        optax.sgd(2 * ETA),
        optax.sgd(ETA, momentum=0.9),
        optax.sgd(ETA, momentum=0.9, nesterov=True),
        optax.chain(optax.clip_by_global_norm(10.0), optax.sgd(ETA)),
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(ETA)),
    ],
    ids=["adam", "sign", "rate", "momentum", "nesterov", "clipping", "decay"],
)
def test_an_optimiser_that_is_not_sgd_is_refused_beside_its_equation(optimizer):
    """θ′ − θ = −ηg for every g is SGD at η; anything else is another rule."""
    with pytest.raises(ValueError, match="and ModifiedEquation has the rule of SGD"):
        check_sides(driven(optimizer), SDE, 5, False)
    check_sides(driven(optimizer), SDE, 5, True)


def test_an_optimiser_that_is_sgd_is_taken_for_it():
    """optax.sgd(η), a schedule, and heavy ball beside the equations of just these."""
    assert different_rules(driven(optax.sgd(ETA)), SDE) == ""

    def rate(k):
        return ETA / (1 + 0.1 * k)

    waning = ss.ModifiedEquation(LANDSCAPE, rate, NOISE)
    assert different_rules(driven(optax.sgd(rate), rate), waning) == ""
    ball = driven(optax.sgd(ETA, momentum=0.9))
    for mu, same in ((0.9, True), (0.5, False)):
        equation = ss.UnderdampedEquation(LANDSCAPE, ETA, NOISE, mu)
        assert (different_rules(ball, equation) == "") is same
        assert (different_rules(ss.SGD(LANDSCAPE, ETA, SAMPLING, mu), equation) == "") is True


def test_adaptive_optimisers_beside_their_equations():
    """Adam beside Adam's equation agrees, beside RMSprop's and at another β not."""
    adam = ss.Adam(0.05)
    equation = ss.AdaptiveEquation(LANDSCAPE, adam, NOISE)
    discrete = ss.OptaxSGD(LANDSCAPE, adam, SAMPLING)
    assert different_rules(discrete, equation) == ""
    other = ss.AdaptiveEquation(LANDSCAPE, ss.RMSprop(0.05, initial=1.0), NOISE)
    assert "the rule of RMSprop" in different_rules(discrete, other)
    other = ss.OptaxSGD(LANDSCAPE, ss.Adam(0.05, beta1=0.5), SAMPLING)
    assert different_rules(other, equation)


def test_momentum_without_its_equation_is_refused():
    """Heavy ball moves 1/(1 − μ) times as fast as ModifiedEquation: the error names the other."""
    ball = ss.SGD(LANDSCAPE, ETA, SAMPLING, momentum=0.9)
    with pytest.raises(ValueError, match="momentum 0.9 .its equation is ss.UnderdampedEquation"):
        check_sides(ball, SDE, 5, False)
    over = ss.OverdampedEquation(LANDSCAPE, ETA, NOISE, 0.9)
    check_sides(ball, over, 5, False)


def test_sharpness_aware_sides():
    """SAM beside its own equation, at its radius, and not beside SGD's."""
    sam = ss.SAM(LANDSCAPE, ETA, 0.1, SAMPLING, normalized=False)
    for radius, same in ((0.1, True), (0.2, False)):
        equation = ss.SAMEquation(LANDSCAPE, ETA, radius, NOISE)
        assert (different_rules(sam, equation) == "") is same
    assert different_rules(sam, SDE)


def test_the_noise_factor_is_seen_through_a_bath():
    """c = 1/B under any number of baths, T their sum; another c or T is a difference."""
    bath = ss.ThermalNoise(ss.ThermalNoise(NOISE, 0.01, ETA), 0.02, ETA)
    warm = ss.ModifiedEquation(LANDSCAPE, ETA, bath)
    assert noise_factor(warm) == 0.5 and warm.bath_temperature == pytest.approx(0.03)
    sampler = ss.SGLD(LANDSCAPE, ETA, ss.WithReplacement(4), temperature=0.03)
    assert differences(sampler, warm) == [
        "the minibatch noise of SGD has the factor c = 0.25 and that of the SDE c = 0.5 (another "
        "batch size or scheme)"
    ]
    colder = ss.SGLD(LANDSCAPE, ETA, SAMPLING, temperature=0.01)
    assert differences(colder, warm) == ["the baths have the temperatures 0.01 and 0.03"]
    over = ss.OverdampedEquation(LANDSCAPE, ETA, NOISE, 0.5)
    assert noise_factor(over) == 0.5
