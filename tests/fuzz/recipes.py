"""A valid small call of every public function, constructor and method, by name.

`RECIPES[name]()` gives the callable and its keyword arguments; names that stand for the same
callable in another setting end with a remark in brackets, "SGD (momentum)".
"""

RECIPES = {}


def add(name, recipe):
    if name in RECIPES:
        raise ValueError(f"there are two recipes for {name}.")
    RECIPES[name] = recipe
