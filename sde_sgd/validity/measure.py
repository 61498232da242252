"""`validity`: checks, exploration, the local model, the verdict."""

import numpy as np
from jaxtyping import ArrayLike

from sde_sgd.estimate import Estimate
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.types import Key, RealLike
from sde_sgd.validity.checks import check_request, Request
from sde_sgd.validity.cost import LOOKS, price, rates, work
from sde_sgd.validity.examples import Examples
from sde_sgd.validity.lines import along_batch_sizes, along_learning_rates, along_linear_scaling
from sde_sgd.validity.probes import noise_curvature
from sde_sgd.validity.report import Report
from sde_sgd.validity.result import Validity
from sde_sgd.validity.rule import largest, watch
from sde_sgd.validity.survey import explore, Explored, Ground, predictor, survey
from sde_sgd.validity.svag_gap import svag_gaps
from sde_sgd.validity.verdict import in_words, overruled


def validity(
    landscape: AbstractLandscape,
    sgd: AbstractProcess,
    theta: ArrayLike,
    *,
    key: Key,
    num_steps: int = 1000,
    tolerance: RealLike = 0.1,
    directions: ArrayLike | None = None,
    count: int = 3,
    num_paths: int = 4,
    explore_steps: int | None = None,
    sample: int | None = None,
    svag: tuple[int, ...] | None = None,
    svag_members: int = 128,
    svag_steps: int = 20,
    num_probes: int = 32,
    progress: bool | None = None,
) -> Validity:
    """Whether SGD's law and its SDE's differ by less than `tolerance` after `num_steps` iterations.

    The two start at θ and are compared at t = ηK, along each watched direction, by

        D = 2 W₂(SGD, SDE)/σ_SDE,

    relative in units of variance: .1 is a variance 10 % off, or a mean .05 standard deviations
    off. D is *predicted*, from the quadratic model of every example loss, averaged over points
    that `num_paths` short runs of SGD visit (`sde_sgd.validity.rule` has the formula). The SDE is
    `ModifiedEquation` of order one with `MinibatchNoise`, for momentum `UnderdampedEquation`,
    both in the limit of a small solver step.

    On the same model D is predicted for other learning rates and batch sizes at equal ηK: which
    of them pass, which fail, and which this sample cannot decide.

    **What it cannot see:** directions it does not watch; events that a quadratic model does not
    know, such as exits over barriers, where the two differ exponentially whatever D says; for
    other η and B, that their runs visit other places than this one.

    **Arguments:**

    - `landscape`, `sgd`: a finite sum and an `ss.SGD` on it, at a constant learning rate.
    - `theta`: θ (d,), where the run starts.
    - `key`: of the sample of examples, the explored paths, SVAG and the probes of tr(HΣ).
    - `num_steps`: K, after which the laws are compared.
    - `tolerance`: of D.
    - `directions`: (d, n), the user's own, beside the `count` sharpest, the `count` noisiest and
      the gradient's.
    - `num_paths`, `explore_steps`: SGD runs that say where the model holds, and their length
      (min(K, 500) if None).
    - `sample`: n. Of more than 2n examples the directions are found on n and judged on n others,
      and D's error is that of examples and paths together; ∇L is exact. None: 5·10⁷/d examples,
      but 512 to 16 384.
    - `svag`, `svag_members`, `svag_steps`: l, members and iterations of the simulated gap to
      SVAG(l); () leaves it out, and so does momentum, of which SVAG has none. None: (2, 4, 8),
      unless its gradients would be more than 2·10¹⁰ numbers.
    - `num_probes`: draws of the noise for tr(HΣ)/tr Σ.
    - `progress`: lines on stderr, the stage and the time left; None shows them on a terminal.

    **Returns:** `Validity`. A gap to SVAG beyond `tolerance` by four errors overrules "valid".
    `forecast_validity` says beforehand what it costs, `validity_scan` looks at a grid of η and B.

    **Raises:** `ValueError` for a population, a process other than `SGD`, one of another
    landscape, a schedule, batches without noise, θ of another shape or not finite, a learning
    rate of η λ_max ≥ 2(1 + μ), and numbers out of range.

    **Source:** Li, Malladi, Arora 2021 (2102.12470) for the ratio of noise and gradient and SVAG;
    the closed moments are those of `ss.theory` for least squares.
    """
    request = check_request(
        landscape,
        sgd,
        theta,
        key=key,
        num_steps=num_steps,
        tolerance=tolerance,
        directions=directions,
        count=count,
        num_paths=num_paths,
        explore_steps=explore_steps,
        sample=sample,
        svag=svag,
        svag_members=svag_members,
        svag_steps=svag_steps,
        num_probes=num_probes,
    )
    stages = 8 + bool(request.svag)
    with Report("validity", stages, progress) as report:
        examples = announced(request, report)
        ground = survey(request, examples, report)
        keys = request.keys
        explored = explore(
            request.sgd, request.theta, request.explore_steps, num_paths, keys[1], report
        )
        gaps: dict[str, dict[int, Estimate]] = {}
        if request.svag and not explored.diverged:
            report.stage("SVAG", 1 + len(request.svag), "ensembles")
            gaps = svag_gaps(
                request.sgd,
                request.theta,
                ground.found.basis @ ground.found.weights[0],
                request.svag,
                num_steps=svag_steps,
                members=svag_members,
                key=keys[2],
                loss=examples.examined.loss,
                tick=report.tick,
            )
        report.stage("tr(HΣ)", num_probes, "probes")
        trace = noise_curvature(examples, request.theta, keys[3], num_probes, report.tick)
        return _judged(request, ground, explored, gaps, trace, report)


def announced(request: Request, report: Report, times: int = 1, looks: int = LOOKS) -> Examples:
    """The examples to look at; says what is looked at, and how long it will take.

    `times` that it is explored, and `looks` at D of another η or B.
    """
    num, dim = request.landscape.num_examples, request.landscape.dimension
    looked_at = request.num_looked_at
    part = "all of them" if looked_at == num else f"two samples of {looked_at} of them"
    report.note(f"d = {dim}, N = {num} examples, {part} looked at")
    for remark in request.remarks:
        report.note(remark)
    report.stage("timing a gradient and some iterations")
    examples = Examples.of(request.landscape, request.sample, request.keys[0])
    if report.line.show:
        found = price(request, examples, rates(request, examples), times, looks)
        report.expect(
            found.seconds,
            f"about {found.seconds:.0f} s and {found.bytes / 1e6:.0f} MB, "
            f"{found.example_gradients:.3g} gradients of an example, "
            f"{found.ratio_to_sgd:.3g} times one SGD run of {request.settings.num_steps} "
            f"iterations; most of it {_most(request)}",
        )
    return examples


def _most(request: Request) -> str:
    counts = work(request)
    return max(counts, key=lambda stage: counts[stage])


def _judged(
    request: Request,
    ground: Ground,
    explored: Explored,
    gaps: dict[str, dict[int, Estimate]],
    trace: Estimate,
    report: Report,
) -> Validity:
    settings, sampling, limit = request.settings, request.sgd.sampling, request.tolerance
    found, norms = ground.found, ground.norms
    foreseen = predictor(request, ground, explored, report)
    watched = watch(foreseen.view, settings, sampling)
    value, error = foreseen.distance(settings, sampling)
    distance = Estimate(np.asarray(value), np.asarray(error), explored.visited[..., 0].size)
    report.stage("other learning rates and batch sizes", 3, "lines")
    stable = 2 * (1 + settings.momentum) / max(found.sharpness, 1e-300)
    lines = [along_learning_rates(foreseen, settings, sampling, limit, stable)]
    for follow in (along_batch_sizes, along_linear_scaling):
        report.tick()
        lines.append(follow(foreseen, settings, sampling, limit))
    verdict = overruled(gaps, limit, float(distance.value))
    reason = "SVAG's measured gap contradicts the prediction"
    if explored.diverged:
        reason = f"{explored.diverged} of {request.num_paths} runs of SGD from here diverge"
        verdict = f"not valid: {reason}"
    if verdict is None:
        reason = ""
        verdict = in_words(
            distance,
            limit,
            largest(watched),
            lines[0],
            lines[1],
            settings,
            ground.examples.sampled,
        )
    else:
        lines = [line.without_ends() for line in lines]
    return Validity(
        verdict=verdict,
        distance=distance,
        watched=watched,
        directions=found.basis @ found.weights.T,
        norms=norms,
        sharpness=found.sharpness,
        mean_curvature=Estimate(
            trace.value / norms.noise_trace,
            trace.standard_error / norms.noise_trace,
            trace.num_samples,
        ),
        growth=foreseen.view.moments.growth(settings),
        diverged=explored.diverged,
        svag=gaps,
        by_learning_rate=lines[0],
        by_batch_size=lines[1],
        scaling=lines[2],
        reason=reason,
        settings=settings,
        tolerance=limit,
        sampling=type(sampling).__name__,
        batch_size=sampling.batch_size,
        num_examples=request.landscape.num_examples,
        num_looked_at=request.num_looked_at,
        remarks=request.remarks,
        seconds=report.elapsed(),
    )
