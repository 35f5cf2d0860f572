"""What all layers of a network have in common."""
from __future__ import annotations

from dataclasses import dataclass

from nomul.compiler.errors import ModelError
from nomul.compiler.values import LIMIT, Codes, Integers, Staircase, Value, Wire

__all__ = ["Layer"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer(Value):
    """A layer: its name, and the names of the layers whose outputs it reads."""

    name: str
    inputs: tuple[str, ...]

    @property
    def lanewise(self) -> bool:
        """Whether an output channel sees its own input channel alone."""
        return False

    def __post_init__(self) -> None:
        if not (self.name.isidentifier() and self.name.isascii()):
            raise ModelError(f"layer {self.name!r}: name must be letters, digits and "
                             "underscores, because it names a module of the Verilog")

    def output(self, wires: tuple[Wire, ...]) -> Wire:
        """The wire that the layer drives, given those it reads; `ModelError` if it cannot."""
        raise TypeError(f"{type(self).__name__} does not say what it drives")

    def _fail(self, message: str) -> ModelError:
        return ModelError(f"layer {self.name!r}: {message}")

    def _codes(self, wires: tuple[Wire, ...]) -> Codes:
        """The single wire read, which must carry codes."""
        if len(wires) != 1:
            raise self._fail(f"must read one layer, not {len(wires)}")
        return self._coded(wires[0], self.inputs[0])

    def _coded(self, wire: Wire, source: str) -> Codes:
        if not isinstance(wire, Codes):
            raise self._fail(f"must read codes, but layer {source!r} gives raw integers; "
                             "give that layer a staircase")
        return wire

    def _image(self, wires: tuple[Wire, ...]) -> Codes:
        """The single wire read, which must carry height, width and channels."""
        wire = self._codes(wires)
        if len(wire.shape) != 3:
            raise self._fail(f"must read height, width and channels, but layer "
                             f"{self.inputs[0]!r} gives shape {wire.shape}")
        return wire

    def _through(self, staircase: Staircase | None, shape: tuple[int, ...], low: int, high: int,
                 ) -> Wire:
        """The wire behind accumulators from ``low`` to ``high`` and an optional staircase."""
        if max(-low, high) > LIMIT:
            raise self._fail("accumulators must lie within +-2**52; use fewer bits a value")
        if staircase is None:
            return Integers(shape=shape, low=low, high=high)
        if len(staircase.thresholds) not in (1, shape[-1]):
            raise self._fail(f"staircase must have 1 row or {shape[-1]}, "
                             f"not {len(staircase.thresholds)}")
        return Codes(shape=shape, levels=staircase.levels)
