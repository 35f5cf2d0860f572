"""Methods by their names, and one float net for several of them."""
import json

import pytest
import torch

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.additive import Additive
from nomul.compiler.quantize.constraints import Fixed, Free, PowerOfTwo
from nomul.compiler.quantize.cq import CqMethod
from nomul.compiler.quantize.csteps import (
    Adaptive,
    FixedCodebook,
    PowersOfTwo,
    ScaledCodebook,
    Signs,
)
from nomul.compiler.quantize.lc import (
    DcMethod,
    IdcMethod,
    LcMethod,
)
from nomul.compiler.quantize.methods import FloatMethod, LutqMethod, Method, UniformMethod
from nomul.compiler.quantize.names import CODEBOOKS, METHODS, method_from_names
from nomul.compiler.quantize.recipes import Recipe
from nomul.compiler.quantize.schemes import Scheme
from nomul.compiler.quantize.tbnu import TbnuMethod
from nomul.compiler.quantize.training import fit, train


@pytest.mark.parametrize("kind, settings, method", [
    ("float", {}, FloatMethod()),
    ("uniform", {}, UniformMethod(bits=4)),
    ("uniform", {"bits": 2, "fraction": None}, UniformMethod(bits=2)),
    ("lutq", {}, LutqMethod(constraint=PowerOfTwo(bits=4))),
    ("lutq", {"dictionary": "free", "bits": 3, "value_bits": 6},
     LutqMethod(constraint=Free(bits=3, value_bits=6))),
    ("lc", {}, LcMethod(step=Adaptive(clusters=4))),
    ("lc", {"entries": 2, "sparse": 0.01, "steps": 30, "step_epochs": 5, "mu": 1e-4, "growth": 1.2,
            "shared": True}, LcMethod(
                step=Additive(base=Adaptive(clusters=2), share=0.01), steps=30, epochs=5, mu=1e-4,
                growth=1.2, shared=True)),
    ("dc", {"codebook": "pow2", "depth": 3}, DcMethod(step=PowersOfTwo(depth=3))),
    ("dc", {"codebook": "fixed", "values": (0.5, 1.0)},
     DcMethod(step=FixedCodebook(values=(0.5, 1.0)))),
    ("dc", {"codebook": "scaled", "values": (-1.0, 2.0), "value_bits": 12},
     DcMethod(step=ScaledCodebook(values=(-1.0, 2.0)), value_bits=12)),
    ("idc", {"codebook": "ternary", "steps": 3},
     IdcMethod(step=Signs(zero=True, scaled=True), steps=3)),
    ("idc", {"codebook": "unit-binary"}, IdcMethod(step=Signs(scaled=False))),
    ("tbnu", {"codes": 8, "entries": 5, "levels": "laplacian"},
     TbnuMethod(codes=8, entries=5, scheme=Scheme.LAPLACIAN)),
    ("cq", {"budget": 1.5, "bits": 3}, CqMethod(budget=1.5, bits=3)),
])
def test_methods_by_name(kind: str, settings: dict[str, object], method: Method) -> None:
    assert method_from_names(kind, **settings) == method
    assert method.settings()["method"] == kind
    assert json.loads(json.dumps(method.settings())) == method.settings()


def test_every_name_makes_a_method() -> None:
    for kind in METHODS:
        assert method_from_names(kind).kind == kind
    for codebook in CODEBOOKS:
        values = (0.5, 1.0) if codebook in ("fixed", "scaled") else None
        assert method_from_names("dc", codebook=codebook, values=values).kind == "dc"


@pytest.mark.parametrize("kind, settings, message", [
    ("int8", {}, r"method 'int8' is unknown; known are: float, uniform, lutq, lc, dc, idc, tbnu, "),
    ("float", {"bits": 3}, r"method 'float': has no setting 'bits'; leave it out"),
    ("uniform", {"dictionary": "pow2"}, r"method 'uniform': has no setting 'dictionary'"),
    ("lutq", {"dictionary": "pow3"}, r"dictionary 'pow3' is unknown"),
    ("lc", {"codebook": "sign"}, r"codebook 'sign' is unknown; known are: adaptive, binary, "),
    ("dc", {"codebook": "pow2", "entries": 3}, r"codebook 'pow2': has no setting 'entries'"),
    ("dc", {"codebook": "fixed"}, r"codebook 'fixed': values must be given; name them"),
    ("dc", {"mu": 0.1}, r"method 'dc': has no setting 'mu'; leave it out"),
    ("tbnu", {"levels": "log"}, r"method 'tbnu': levels must be one of .*, not 'log'"),
])
def test_names_that_are_refused(kind: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        method_from_names(kind, **settings)


@pytest.mark.train
def test_one_float_net_serves_several_methods(recipe: Recipe) -> None:
    """Passed on, it gives the same networks as if each method had trained its own."""
    first = train(recipe, FloatMethod(), epochs=2)
    for method in (UniformMethod(bits=3), LutqMethod(constraint=Free(bits=2))):
        alone = train(recipe, method, epochs=2)
        shared = train(recipe, method, epochs=2, teacher=first.teacher)
        assert alone.network == shared.network
        assert alone.provenance == shared.provenance


@pytest.mark.train
def test_the_float_method_is_close_to_the_float_net(recipe: Recipe) -> None:
    fitted = fit(recipe, FloatMethod(), epochs=30)
    accuracy = fitted.provenance["accuracy"]
    assert accuracy["quantized_validation"] >= accuracy["float_validation"] - 0.02
    weights = fitted.model.get_submodule("dense1").weight
    assert 16 < len(torch.unique(weights)) <= 256


@pytest.mark.train
def test_uniform_weights_are_evenly_spaced(recipe: Recipe) -> None:
    network = train(recipe, UniformMethod(bits=3), epochs=2).network
    assert UniformMethod(bits=3).settings() == {"method": "uniform", "bits": 3}
    for layer in network.layers:
        dictionary = getattr(layer, "dictionary", None)
        assert dictionary is None or set(dictionary.tolist()) <= set(range(-4, 4))
    assert Fixed(bits=3).entries == 8
