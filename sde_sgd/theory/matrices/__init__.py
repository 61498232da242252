"""Random-matrix laws of spectra and level spacings, and laws of a matrix's entries."""

from sde_sgd.theory.matrices.dyson import (
    boltzmann_machine_spacing as boltzmann_machine_spacing,
    coulomb_gas_log_density as coulomb_gas_log_density,
    dyson_drift as dyson_drift,
    InjectedNoiseLevels as InjectedNoiseLevels,
)
from sde_sgd.theory.matrices.entry_laws import (
    conditional_coefficients as conditional_coefficients,
    entry_rates as entry_rates,
    EntryCoefficients as EntryCoefficients,
    evolve_entries as evolve_entries,
    fit_entries as fit_entries,
)
from sde_sgd.theory.matrices.product_closures import (
    product_closure as product_closure,
    product_points as product_points,
)
from sde_sgd.theory.matrices.spectra import (
    MarchenkoPastur as MarchenkoPastur,
    mean_gap_ratio as mean_gap_ratio,
    rice_mean as rice_mean,
    wigner_surmise as wigner_surmise,
    wigner_surmise_cdf as wigner_surmise_cdf,
)
from sde_sgd.theory.matrices.teacher_student_levels import (
    teacher_student_spacing as teacher_student_spacing,
    TeacherStudentSpacing as TeacherStudentSpacing,
)
