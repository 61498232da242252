"""The inverse problem: which SDE would a reader of the trajectories have written down?"""

from .basis import (
    AbstractBasis as AbstractBasis,
    FunctionBasis as FunctionBasis,
    PolynomialBasis as PolynomialBasis,
)
from .fitted import FittedSDE as FittedSDE
from .kramers_moyal import (
    identify_kramers_moyal as identify_kramers_moyal,
    LocalCoefficients as LocalCoefficients,
)
from .linear import identify_linear as identify_linear
from .sparse import identify_sparse as identify_sparse
from .weak_form import identify_from_snapshots as identify_from_snapshots, WeakForm as WeakForm
