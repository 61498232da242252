"""Rare events: adaptive multilevel splitting."""

from sde_sgd.rare_events.merging import merge_splittings as merge_splittings
from sde_sgd.rare_events.result import Splitting as Splitting
from sde_sgd.rare_events.splitting import splitting as splitting
from sde_sgd.rare_events.wave import SplittingError as SplittingError
from sde_sgd.simulate.merging import merged as merged

merged.register(Splitting, merge_splittings)
