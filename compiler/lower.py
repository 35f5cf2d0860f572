"""Networks and plans to hardware components."""
from __future__ import annotations

from typing import Any

import numpy as np

from nomul.compiler.circuits import dense_terms, shift_clip_terms, threshold_rows
from nomul.compiler.errors import ModelError
from nomul.compiler.network import Argmax, Codes, Dense, Flatten, Input, Network
from nomul.compiler.plan import (
    DensePlan,
    Plan,
    ProductCircuit,
    StaircaseCircuit,
    check_plan,
    output_lanes,
)
from nomul.hw.argmax import Argmax as ArgmaxUnit
from nomul.hw.axis import AxisTop
from nomul.hw.chain import Chain
from nomul.hw.dots import DotProducts
from nomul.hw.product import ShiftAddProducts, TableProducts
from nomul.hw.replay import Replay
from nomul.hw.shapes import signed_range
from nomul.hw.staircase import Comparators, Offset, Search, ShiftClip
from nomul.hw.stream import Regroup, beats

__all__ = ["lower", "lower_body"]


def lower(network: Network, plan: Plan) -> AxisTop:
    """The hardware of ``network`` built as ``plan`` says, with AXI4-Stream ports."""
    return AxisTop(lower_body(network, plan), i_length=int(np.prod(network.input.shape)),
                   o_length=int(np.prod(network.output.shape)))


def lower_body(network: Network, plan: Plan) -> Chain:
    """The same without the ports: a stream of codes in, a stream of results out.

    Every layer that has hardware is a submodule, by the layer's name.
    """
    check_plan(plan, network)
    parts: dict[str, Any] = {}
    lanes = plan.input_lanes
    for layer in network.layers:
        match layer:
            case Input() | Flatten():
                pass  # order of the stream and order of the vector are one
            case Dense():
                wire, = network.reads(layer)
                assert isinstance(wire, Codes)
                parts[layer.name] = _dense(layer, wire, plan[layer.name], lanes)
                lanes = output_lanes(layer, plan[layer.name])
            case Argmax():
                wire, = network.reads(layer)
                if not parts:
                    raise ModelError(f"layer {layer.name!r}: must read a dense layer")
                scores = list(parts.values())[-1].o.payload
                parts[layer.name] = ArgmaxUnit(scores.shape().elem_shape, lanes=lanes,
                                               length=wire.shape[0])
            case _:
                raise ModelError(f"layer {layer.name!r}: has no hardware yet; remove it")
    if not parts:
        raise ModelError(f"network {network.name!r}: must have a dense layer to be built")
    return Chain(parts)


def _dense(layer: Dense, wire: Codes, plan: DensePlan, i_lanes: int) -> Chain:
    """Gather inputs, repeat them for each group of outputs, add up, make codes."""
    terms = dense_terms(layer, wire.levels)
    table = terms.products.tolist()
    if plan.product is ProductCircuit.SHIFT_ADD:
        products: Any = ShiftAddProducts(table, lanes=plan.outputs, inputs=plan.inputs)
    else:
        products = TableProducts(table, lanes=plan.outputs, inputs=plan.inputs,
                                 storage=plan.products_in)
    lanes = output_lanes(layer, plan)
    low, high = int(terms.low.min()), int(terms.high.max())
    dots = DotProducts(products, layer.assignment.tolist(), acc_shape=signed_range(low, high),
                       o_lanes=lanes, storage=plan.weights_in)

    parts: dict[str, Any] = {}
    if i_lanes != plan.inputs:
        parts["gather"] = Regroup(products.code_shape, i_lanes=i_lanes, o_lanes=plan.inputs,
                                  length=layer.fan_in)
    if plan.depth:
        parts["replay"] = Replay(dots.i.payload.shape(), length=beats(layer.fan_in, plan.inputs),
                                 repeats=dots.groups, depth=plan.depth)
    parts["dots"] = dots

    shape, offsets, negate = dots.acc_shape, terms.offsets, False
    shift = None
    if plan.staircase is StaircaseCircuit.SHIFT_CLIP:
        assert layer.staircase
        shift = shift_clip_terms(layer.staircase, terms.low + offsets, terms.high + offsets)
        assert shift, "the plan is checked"
        negate = shift.negate
        offsets = shift.offsets - offsets if negate else shift.offsets + offsets
    # An own offset for each output is added; a common one moves into the thresholds.
    rows = plan.staircase in (StaircaseCircuit.COMPARATORS, StaircaseCircuit.SEARCH)
    folded = rows and (not np.ptp(offsets) or bool(layer.staircase and layer.staircase.per_channel))
    if (offsets.any() or negate) and not folded:
        ends = [offsets - terms.high, offsets - terms.low] if negate else [
            terms.low + offsets, terms.high + offsets]
        low, high = int(min(e.min() for e in ends)), int(max(e.max() for e in ends))
        parts["offset"] = Offset(
            shape, signed_range(low, high), lanes=lanes, negate=negate,
            offsets=offsets.tolist() if np.ptp(offsets) else [int(offsets[0])],
            storage=plan.constants_in)
        shape = parts["offset"].o_shape
        offsets = np.zeros_like(offsets)

    codes = len(layer.staircase.levels) if layer.staircase else 0
    if shift:
        parts["staircase"] = ShiftClip(shape, shift=shift.shift, codes=codes, lanes=lanes)
    elif rows:
        assert layer.staircase
        thresholds, falling = threshold_rows(layer.staircase, offsets, low, high)
        circuit = Comparators if plan.staircase is StaircaseCircuit.COMPARATORS else Search
        parts["staircase"] = circuit(shape, thresholds.tolist(), falling=falling, lanes=lanes,
                                     storage=plan.constants_in)
    return Chain(parts)
