"""Methods by the names and settings that a command line has for them."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.additive import Additive
from nomul.compiler.quantize.cq import CqMethod
from nomul.compiler.quantize.csteps import (
    Adaptive,
    CStep,
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
from nomul.compiler.quantize.recipes import constraint_from_names
from nomul.compiler.quantize.schemes import Scheme
from nomul.compiler.quantize.tbnu import TbnuMethod

__all__ = ["CODEBOOKS", "METHODS", "cstep_from_names", "method_from_names"]


def method_from_names(kind: str, **settings: Any) -> Method:
    """The method that a command line names.

    Parameters
    ----------
    kind : str
        One of `METHODS`.
    settings
        What the method has; those that are None were not given.

        - ``uniform``: ``bits``
        - ``lutq``: those of `nomul.compiler.quantize.recipes.constraint_from_names`
        - ``lc``, ``dc`` and ``idc``: those of `cstep_from_names`, ``shared`` and ``value_bits``;
          the first and the last also ``steps``, ``step_epochs``, and ``lc`` ``mu`` and ``growth``
        - ``tbnu``: ``codes``, ``entries`` and ``levels``
        - ``cq``: ``budget``, ``bits`` (at most, of a filter) and ``last_bits``

    Raises
    ------
    ModelError
        If a name is unknown, or a setting does not belong to the method.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if kind not in _MAKERS:
        raise ModelError(f"method {kind!r} is unknown; known are: {', '.join(METHODS)}")
    known, make = _MAKERS[kind]
    for name in given:
        if name not in known:
            raise ModelError(f"method {kind!r}: has no setting {name!r}; leave it out")
    return make(**given)


def cstep_from_names(codebook: str = "adaptive", *, entries: int | None = None,
                     depth: int | None = None, values: tuple[float, ...] | None = None,
                     sparse: float | None = None) -> CStep:
    """The C step that a command line names.

    Parameters
    ----------
    codebook : str
        One of `CODEBOOKS`.
    entries : int, optional
        K, only for ``adaptive``; 4.
    depth : int, optional
        C, only for ``pow2``; 6.
    values : tuple of float, optional
        Entries of ``fixed`` and ``scaled``, which need them.
    sparse : float, optional
        Share of the weights that get a correction.

    Raises
    ------
    ModelError
        If the name is unknown, or a setting does not belong to it.
    """
    if codebook not in _CODEBOOKS:
        raise ModelError(f"codebook {codebook!r} is unknown; known are: {', '.join(CODEBOOKS)}")
    given = {name: value for name, value in (
        ("entries", entries), ("depth", depth), ("values", values)) if value is not None}
    known, make = _CODEBOOKS[codebook]
    for name in given:
        if name not in known:
            raise ModelError(f"codebook {codebook!r}: has no setting {name!r}; leave it out")
    if "values" in known and values is None:
        raise ModelError(f"codebook {codebook!r}: values must be given; name them, for example "
                         "-1,0,1")
    step = make(**given)
    return step if sparse is None else Additive(base=step, share=sparse)


_CODEBOOKS: dict[str, tuple[tuple[str, ...], Callable[..., CStep]]] = {
    "adaptive": (("entries",), lambda entries=4: Adaptive(clusters=entries)),
    "binary": ((), lambda: Signs(zero=False, scaled=True)),
    "ternary": ((), lambda: Signs(zero=True, scaled=True)),
    "unit-binary": ((), lambda: Signs(zero=False, scaled=False)),
    "unit-ternary": ((), lambda: Signs(zero=True, scaled=False)),
    "pow2": (("depth",), lambda depth=6: PowersOfTwo(depth=depth)),
    "fixed": (("values",), lambda values: FixedCodebook(values=values)),
    "scaled": (("values",), lambda values: ScaledCodebook(values=values)),
}

CODEBOOKS = tuple(_CODEBOOKS)
"""What `cstep_from_names` knows."""

_STEP = ("codebook", "entries", "depth", "values", "sparse")


def _lutq(*, dictionary: str = "pow2", bits: int | None = None, **settings: Any) -> LutqMethod:
    return LutqMethod(constraint=constraint_from_names(dictionary, bits, **settings))


def _compression(method: Callable[..., Method]) -> Callable[..., Method]:
    def make(**settings: Any) -> Method:
        step = {name: settings.pop(name) for name in _STEP if name in settings}
        if "step_epochs" in settings:
            settings["epochs"] = settings.pop("step_epochs")
        return method(step=cstep_from_names(**step), **settings)
    return make


def _tbnu(*, levels: str = Scheme.KMEANS.value, **settings: Any) -> TbnuMethod:
    known = {scheme.value: scheme for scheme in Scheme}
    if levels not in known:
        raise ModelError(f"method 'tbnu': levels must be one of {', '.join(known)}, "
                         f"not {levels!r}")
    return TbnuMethod(scheme=known[levels], **settings)


_MAKERS: dict[str, tuple[tuple[str, ...], Callable[..., Method]]] = {
    "float": ((), FloatMethod),
    "uniform": (("bits",), lambda bits=4: UniformMethod(bits=bits)),
    "lutq": (("dictionary", "bits", "value_bits", "fraction", "scale", "rounding", "zero"), _lutq),
    "lc": ((*_STEP, "shared", "value_bits", "steps", "step_epochs", "mu", "growth"),
           _compression(LcMethod)),
    "dc": ((*_STEP, "shared", "value_bits"), _compression(DcMethod)),
    "idc": ((*_STEP, "shared", "value_bits", "steps", "step_epochs"),
            _compression(IdcMethod)),
    "tbnu": (("codes", "entries", "levels"), _tbnu),
    "cq": (("budget", "bits", "last_bits"), CqMethod),
}

METHODS = tuple(_MAKERS)
"""What `method_from_names` knows."""
