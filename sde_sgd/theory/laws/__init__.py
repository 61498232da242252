"""Probability laws of θ: densities on grids, master equations, Itô densities, tails."""

from sde_sgd.theory.laws.fokker_planck import FokkerPlanck as FokkerPlanck
from sde_sgd.theory.laws.gaussian import Gaussian as Gaussian
from sde_sgd.theory.laws.grid_density import GridDensity as GridDensity
from sde_sgd.theory.laws.ito import (
    stationary_density as stationary_density,
    StationaryDensity as StationaryDensity,
)
from sde_sgd.theory.laws.kesten import (
    tail_index as tail_index,
    tail_index_limit as tail_index_limit,
    tail_index_published as tail_index_published,
)
from sde_sgd.theory.laws.kramers_moyal import KramersMoyal as KramersMoyal
from sde_sgd.theory.laws.law import AbstractLaw as AbstractLaw
from sde_sgd.theory.laws.master_equation import MasterEquation as MasterEquation
from sde_sgd.theory.laws.scalar_law import ScalarLaw as ScalarLaw
from sde_sgd.theory.laws.wasserstein import wasserstein2 as wasserstein2
