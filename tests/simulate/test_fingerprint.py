"""What a checkpoint sees of the code that it depends on, and what it does not mind."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.simulate.fingerprint import describe, unseen

# Code of a user that makes `made`; VALUE is .2 or .8, which it reads in another place each time.
CODE = {
    "a function that it calls": """
def inner(x): return x > VALUE
def outer(x): return inner(x)
made = lambda x: outer(x)
""",
    "a constant of the module": "BARRIER = VALUE\ndef made(x): return x > BARRIER",
    "a list of the module": "BARRIERS = [[VALUE]]\ndef made(x): return x > BARRIERS[0][0]",
    "a dictionary of the module": "OPTIONS = {'b': {'a': VALUE}}\ndef made(x): return OPTIONS",
    "an attribute of a module": """
import helpers
helpers.BARRIER = VALUE
def made(x): return x > helpers.BARRIER
""",
    "a function of a module": """
import helpers
exec("def level(x): return x > VALUE", vars(helpers))
def made(x): return helpers.level(x)
""",
    "a default": "def made(x, barrier=VALUE): return x > barrier",
    "a keyword default": "def made(x, *, barrier=VALUE): return x > barrier",
    "a closure": """
def make(barrier):
    def inside(x): return x > barrier
    return lambda x: inside(x)
made = make(VALUE)
""",
    "a method of a class": """
class Model:
    def level(self, x): return x > VALUE
def made(x): return Model().level(x)
""",
    "a base class": """
class Base:
    def level(self, x): return x > VALUE
class Model(Base): pass
made = Model().level
""",
    "a static method and a property": """
class Model:
    @staticmethod
    def level(x): return x > VALUE
    @property
    def barrier(self): return self.level(1)
made = Model()
""",
    "a constant of a class": """
class Model:
    barrier = VALUE
def made(x): return x > Model.barrier
""",
    "slots": """
class Model:
    __slots__ = ("barrier",)
    def __call__(self, x): return x > self.barrier
made = Model()
made.barrier = VALUE
""",
    "a bound method": """
class Model:
    def __init__(self): self.barrier = VALUE
    def level(self, x): return x > self.barrier
made = Model().level
""",
    "what a bound method calls": """
def inner(x): return x > VALUE
class Model:
    def level(self, x): return inner(x)
made = Model().level
""",
    "a partial": """
import functools
made = functools.partial(lambda b, x: x > b, VALUE)
""",
    "a getter of the library": """
import operator
made = operator.itemgetter(int(10 * VALUE))
""",
    "a decorated function": """
import functools, jax
@jax.jit
def inner(x): return x > VALUE
@functools.lru_cache
def cached(x): return x > 1
def made(x): return inner(x) + cached(x)
""",
    "transformed functions": """
import jax, equinox as eqx
mapped = jax.vmap(lambda x: x > VALUE)
compiled = eqx.filter_jit(lambda x: x)
made = lambda x: jax.grad(compiled)(mapped(x))
""",
    "the axes of a transformed function": """
import jax
made = jax.vmap(lambda x: x, in_axes=int(10 * VALUE))
""",
    "a compiled function of another kind": """
import jax, equinox as eqx
made = eqx.filter_jit(jax.grad(lambda x: VALUE * x))
""",
    "an attribute of a function": "def made(x): return x\nmade.barrier = VALUE",
    "a dataclass": """
import dataclasses
@dataclasses.dataclass
class Config:
    barrier: float = VALUE
CONFIG = Config()
def made(x): return x > CONFIG.barrier
""",
    "a module that is imported inside": """
import pathlib, importlib.util, sys, tempfile
folder = tempfile.mkdtemp()
path = pathlib.Path(folder) / "inside_module.py"
path.write_text("def level(x): return x > VALUE")
spec = importlib.util.spec_from_file_location("inside_module", path)
sys.modules["inside_module"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["inside_module"])
def made(x):
    import inside_module
    return inside_module.level(x)
""",
    "a deque and a regular expression": """
import collections, re
PARTS = collections.deque([VALUE, re.compile("a+")])
def made(x): return PARTS
""",
    "a user's landscape": """
import jax.numpy as jnp, sde_sgd as ss
def potential(x): return VALUE * jnp.sum(x**2)
made = ss.Potential(potential, jnp.eye(1))
""",
    "a schedule of another package": """
import optax
made = optax.linear_schedule(VALUE, 0.0, 10)
""",
}


def made(name, value):
    """What the code of a case makes."""
    module, helpers = types.ModuleType("user_code"), types.ModuleType("helpers")
    sys.modules |= {"user_code": module, "helpers": helpers}
    exec(compile(CODE[name].replace("VALUE", str(value)), "user_code.py", "exec"), vars(module))
    return module.made


def words(name, value):
    found = json.loads(json.dumps(describe(made(name, value))))
    assert unseen(found) == []
    return found


@pytest.mark.parametrize("name", CODE)
def test_an_edit_is_seen(name):
    """.2 → .8 in whatever a function depends on is another configuration; .2 again is not."""
    assert words(name, 0.2) == words(name, 0.2)
    assert words(name, 0.2) != words(name, 0.8)


def print_all():
    print(json.dumps({name: words(name, 0.2) for name in CODE}))


def test_the_words_do_not_change_between_processes():
    """Another process with other hashes describes the same code by the same words."""
    call = "import sys; sys.path.append('..'); import test_fingerprint as t; t.print_all()"
    here = Path(__file__).parent.resolve()
    path = os.pathsep.join([str(Path(ss.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, "-c", call],
        cwd=here,
        env=os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    theirs = json.loads(child.stdout)
    for name in CODE:
        assert theirs[name] == words(name, 0.2), name


def test_what_does_not_matter_is_not_seen():
    """A docstring, a comment, another module of an attribute's name: the same configuration."""
    plain, told = {}, {"data": 3}
    exec("def f(x):\n    return x.data", plain)
    exec("def f(x):\n    '''Says what it is.'''\n    # and why\n    return x.data", told)
    first, second = describe(plain["f"]), describe(told["f"])
    assert first["globals"] == second["globals"] == {}
    one = "def f(x):\n    'One.'\n    return x"
    other = one.replace("One.", "Another.")
    exec(one, plain), exec(other, told)
    assert describe(plain["f"]) == describe(told["f"])


def run(path, exited, **options):
    process = ss.SGD(ss.quadratic(1.0, 1.0), 0.1, ss.WithReplacement(1))
    measures = {"exit": ss.FirstPassage(exited)}
    options = dict(num_steps=4, ensemble_size=2, key=jr.key(0), measures=measures) | options
    return ss.simulate(process, jnp.zeros(1), checkpoint=path, **options)


def test_a_barrier_inside_a_function_that_is_called(tmp_path, monkeypatch):
    """A checkpoint with barrier .2 refuses .8, though `exited` itself was not touched."""
    path = tmp_path / "run.npz"
    monkeypatch.setitem(globals(), "barrier_of_the_test", 20.0)
    run(path, lambda x: beyond(x))
    run(path, lambda x: beyond(x), num_steps=5)
    monkeypatch.setitem(globals(), "barrier_of_the_test", 80.0)
    with pytest.raises(ValueError, match=r"beyond\.globals\.barrier_of_the_test was .* and is"):
        run(path, lambda x: beyond(x), num_steps=6)


def beyond(x):
    return x[0] > barrier_of_the_test


def test_what_cannot_be_seen_is_refused_by_name(tmp_path):
    """A generator in a closure: refused with a checkpoint, unless the user has a version of his."""
    hidden = (k for k in range(3))

    def exited(x):
        return (x[0] > 20.0) & (hidden is not None)

    path = tmp_path / "run.npz"
    assert run(None, exited).complete
    with pytest.raises(
        ValueError, match=r"exited\.closure\.hidden \(builtins\.generator.*version="
    ):
        run(path, exited)
    assert not path.exists()
    assert run(ss.Checkpoint(path, version="1"), exited).complete
    assert run(ss.Checkpoint(path, version="1"), exited, num_steps=5).num_steps == 5
    with pytest.raises(ValueError, match="version was 1 and is 2"):
        run(ss.Checkpoint(path, version="2"), exited, num_steps=5)


def test_the_parts_of_the_library_are_seen():
    """Nothing of the library's own processes and measures is hidden from a checkpoint."""
    data = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 2
    landscape = ss.LogisticRegression(*data, num_classes=2)
    processes = [
        ss.SGD(landscape, 0.1, ss.RandomReshuffling(3), momentum=0.5),
        ss.ModifiedEquation(landscape, 0.1, ss.MinibatchNoise(ss.WithReplacement(3)), substeps=2),
        ss.GradientFlow(landscape, 0.1),
    ]
    measures = [
        ss.Moments(of=jnp.sum),
        ss.Moments(of=jax.nn.relu),
        ss.Moments(of=landscape.loss),
        ss.Occupation(ss.landscapes.label_by_nearest(np.eye(2)), 2),
        ss.FirstPassage.bridged(processes[1], lambda x: x[0] - 3),
        ss.Spectrum(lambda x: jnp.outer(x, x), edges=[0.0, 1.0]),
    ]
    for part in (*processes, *measures):
        assert unseen(describe(part)) == []
        assert json.dumps(describe(part))
