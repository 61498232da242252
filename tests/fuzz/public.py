"""The public names of the package, each once, as a user types them after `ss.`."""

import inspect
from typing import Any

import sde_sgd as ss


def public() -> dict[str, Any]:
    """Public classes and functions by name: "SGD", "curvature.trace", "theory.laws.ScalarLaw"."""
    modules = {name: getattr(ss, name) for name in dir(ss)}
    modules = {name: found for name, found in modules.items() if inspect.ismodule(found)}
    subjects = {f"theory.{name}": getattr(ss.theory, name) for name in dir(ss.theory)}
    found = {name: getattr(ss, name) for name in dir(ss) if name not in modules}
    for place, module in (modules | subjects).items():
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            own = getattr(value, "__module__", "").startswith("sde_sgd.")
            if own and not name.startswith("_") and not any(value is v for v in found.values()):
                found[f"{place}.{name}"] = value
    return {name: value for name, value in found.items() if callable(value)}
