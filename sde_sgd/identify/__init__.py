"""The inverse problem: which SDE would a reader of the trajectories have written down?"""

from sde_sgd.identify.basis import (
    AbstractBasis as AbstractBasis,
    FunctionBasis as FunctionBasis,
    PolynomialBasis as PolynomialBasis,
)
from sde_sgd.identify.fitted import FittedSDE as FittedSDE
from sde_sgd.identify.kramers_moyal import (
    identify_kramers_moyal as identify_kramers_moyal,
    LocalCoefficients as LocalCoefficients,
)
from sde_sgd.identify.linear import identify_linear as identify_linear
from sde_sgd.identify.sparse import identify_sparse as identify_sparse
from sde_sgd.identify.weak_form import (
    identify_from_snapshots as identify_from_snapshots,
    WeakForm as WeakForm,
)
