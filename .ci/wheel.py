"""A wheel holds the experiments as `sde_sgd.experiments`, which an editable install has no need of.

An installed package called `experiments` would stand in the way of everybody else's.
"""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Experiments(BuildHookInterface):
    """Puts the folder into the package."""

    def initialize(self, version, build_data):
        """Called by hatchling, once for "standard" and once for "editable" wheels."""
        if version == "standard":
            build_data["force_include"]["experiments"] = "sde_sgd/experiments"
