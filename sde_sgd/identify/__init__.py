"""SDEs read off trajectories or snapshots, with intervals: `ss.identify.linear(run)`."""

from sde_sgd.identify.basis import (
    FunctionBasis as FunctionBasis,
    PolynomialBasis as PolynomialBasis,
)
from sde_sgd.identify.fitted import FittedSDE as FittedSDE
from sde_sgd.identify.kramers_moyal_coefficients import (
    kramers_moyal as kramers_moyal,
    LocalCoefficients as LocalCoefficients,
)
from sde_sgd.identify.linear_drift import linear as linear
from sde_sgd.identify.sparse_terms import sparse as sparse
from sde_sgd.identify.weak_form import from_snapshots as from_snapshots, WeakForm as WeakForm
