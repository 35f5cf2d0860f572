"""Networks: what is refused, exact ranges, equality and digest."""
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nomul.compiler.errors import ModelError
from nomul.compiler.network import (
    Argmax,
    Codes,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Integers,
    Levels,
    Network,
    Staircase,
)

LEVELS = Levels.uniform(4)
PIXELS = Input(name="pixels", shape=(2, 2, 1), levels=LEVELS)
FLAT = Flatten(name="flat", inputs=("pixels",))


#: Of `network()`, when the first version of nomul had made it.
DIGEST = "df82060c9b15b9ee2999bdc80f5eca538beb64157a1cd6a061da604355810210"


def dense(name: str = "dense1", source: str = "flat", **changes: Any) -> Dense:
    return Dense(**{"name": name, "inputs": (source,), "dictionary": [-1, 0, 2],
                    "assignment": [[0, 1, 2, 0], [2, 2, 1, 1]], "bias": [3, -1], **changes})


def network(*layers: Any) -> Network:
    return Network(name="net", layers=(PIXELS, FLAT, *(layers or (dense(),))))


def test_ranges_are_exact_and_reached() -> None:
    layer = dense()
    low, high = layer.accumulators(LEVELS)
    grid = np.stack(np.meshgrid(*[LEVELS.values] * 4), axis=-1).reshape(-1, 4)
    sums = grid @ layer.weights.T + layer.bias
    assert low.tolist() == sums.min(axis=0).tolist()
    assert high.tolist() == sums.max(axis=0).tolist()
    assert network().output == Integers(shape=(2,), low=-3, high=11)


def test_wires_say_what_travels() -> None:
    codes = Staircase(thresholds=[[0, 1, 2]], levels=LEVELS)
    net = network(dense(staircase=codes), Argmax(name="best", inputs=("dense1",)))
    assert net.wires["flat"] == Codes(shape=(4,), levels=LEVELS)
    assert net.wires["dense1"] == Codes(shape=(2,), levels=LEVELS)
    assert net.output == Integers(shape=(1,), low=0, high=1)


def test_equal_networks_share_digest_and_others_do_not() -> None:
    assert network() == network() and hash(network()) == hash(network())
    assert network().digest == network().digest
    for changed in (dense(bias=[3, 0]), dense(dictionary=[-1, 0, 4]), dense(exponent=1),
                    dense(assignment=[[0, 1, 2, 0], [2, 2, 1, 0]]),
                    dense(staircase=Staircase(thresholds=[[0, 1, 2]], levels=LEVELS))):
        other = network(changed)
        assert other != network() and other.digest != network().digest


def test_widths_are_part_of_what_is_stored_but_not_of_what_is_computed() -> None:
    plain = dense(dictionary=[5, -1, 0, 2], assignment=[[0, 0, 0, 0], [2, 1, 3, 1]])
    wide = replace(plain, widths=[0, 2])
    assert (plain.stored_bits, wide.stored_bits) == (16, 8)
    assert plain.segments == {2: range(4)}
    assert wide.segments == {0: range(1), 2: range(1, 4)}
    assert network(wide).digest != network(plain).digest and network(wide) != network(plain)
    assert (wide.weights == plain.weights).all() and network(wide).output == network(plain).output


def test_digests_are_those_of_networks_before_there_were_widths() -> None:
    assert network().digest == DIGEST


def test_corrections_are_added_to_weights() -> None:
    corrected = dense(corrections=[[0, 1, 3], [1, 0, -7]])
    assert corrected.weights.tolist() == [[-1, 3, 2, -1], [-5, 2, 0, 0]]
    assert dense().weights.tolist() == [[-1, 0, 2, -1], [2, 2, 0, 0]]
    # 8 weights are numbered in 3 bits, and -7 takes 4.
    assert (corrected.correction_bits, corrected.stored_bits) == (2 * 7, 2 * 8 + 2 * 7)
    assert network(corrected).digest != network().digest and network(corrected) != network()
    levels = LEVELS.values
    for ends, sign in zip(corrected.accumulators(LEVELS), (-1, 1), strict=True):
        terms = [[max((weight * levels).tolist(), key=lambda term: sign * term) for weight in row]
                 for row in corrected.weights]
        assert ends.tolist() == [sum(row) + bias
                                 for row, bias in zip(terms, corrected.bias, strict=True)]


@pytest.mark.parametrize("assignment, widths, segments", [
    ([[0, 1, 1, 0], [2, 2, 4, 3]], [1, 2], {1: range(2), 2: range(2, 5)}),
    ([[1, 1, 1, 1], [4, 4, 4, 4]], [1, 2], {1: range(2), 2: range(2, 5)}),
    ([[1, 1, 1, 1], [2, 1, 4, 4]], [0, 2], None),
    ([[0, 0, 0, 0], [1, 1, 4, 4]], [0, 2], {0: range(1), 2: range(1, 5)}),
    ([[2, 3, 4, 2], [0, 1, 1, 0]], [2, 1], {1: range(2), 2: range(2, 5)})])
def test_segments_are_found(assignment: Any, widths: Any, segments: Any) -> None:
    if segments is None:
        with pytest.raises(ModelError, match="must have their weights in a segment"):
            dense(dictionary=[1, 2, 3, 4, 5], assignment=assignment, widths=widths)
    else:
        layer = dense(dictionary=[1, 2, 3, 4, 5], assignment=assignment, widths=widths)
        assert layer.segments == segments


def test_arrays_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        dense().assignment[0, 0] = 1


@pytest.mark.parametrize("make, message", [
    (lambda: dense(assignment=[[0, 1, 2, 3], [0, 0, 0, 0]]),
     "layer 'dense1': assignment must be within the dictionary of 3 entries, not 3; "
     "export the network again"),
    (lambda: dense(dictionary=[0.0, float("nan"), 1.0]),
     "layer 'dense1': dictionary must be finite, but hold NaN or infinity; "
     "train or export the network again"),
    (lambda: dense(dictionary=[0.0, float("inf"), 1.0]),
     "layer 'dense1': dictionary must be finite, but hold NaN or infinity; "
     "train or export the network again"),
    (lambda: dense(dictionary=[0.5, 1, 2]),
     "layer 'dense1': dictionary must be integers; export the network with exact scales"),
    (lambda: dense(dictionary=[2**60, 1, 2]),
     "layer 'dense1': dictionary must lie within +-2**52; reduce the precision of the values"),
    (lambda: dense(widths=[1]),
     "layer 'dense1': widths must be one for each of 2 outputs, not 1"),
    (lambda: dense(widths=[2, 17]), "layer 'dense1': widths must be 0 to 16 bits, not 17"),
    (lambda: dense(widths=[1, 2]),
     "layer 'dense1': outputs of 1 bits must have their weights in a segment of the dictionary of "
     "at most 2 entries, behind those of narrower outputs, not in entries 0 to 2; "
     "export it again"),
    (lambda: dense(widths=[1, 1], assignment=[[0, 1, 1, 0], [1, 1, 1, 1]]),
     "layer 'dense1': segments of the dictionary must hold all its 3 entries, not 2; "
     "leave out the others"),
    (lambda: dense(corrections=[[0, 0, 1]], table=np.zeros((3, 4), int)),
     "layer 'dense1': corrections must be of weights without a table or widths of their own; leave "
     "one of them out"),
    (lambda: dense(corrections=np.zeros((0, 3), int)),
     "layer 'dense1': corrections must be one or more rows of output, input and value, not of "
     "shape (0, 3); leave out an empty one"),
    (lambda: dense(corrections=[[1, 4, 1]]),
     "layer 'dense1': corrections must be of 2 outputs and 4 inputs, not of output 1 and input 4"),
    (lambda: dense(corrections=[[1, 0, 1], [0, 3, 1]]),
     "layer 'dense1': corrections must be sorted by output and input, each weight once; "
     "export it again"),
    (lambda: dense(corrections=[[1, 0, 0]]),
     "layer 'dense1': corrections must not be 0; leave those out"),
    (lambda: network(dense(corrections=[[0, 0, 2**51]])),
     "layer 'dense1': accumulators must lie within +-2**52; use fewer bits a value"),
    (lambda: Conv2d(name="conv", inputs=("pixels",), dictionary=[1], bias=[0],
                    assignment=[[[[0]]]], corrections=[[0, 0, 1]]),
     "layer 'conv': corrections must belong to a dense layer, not to a Conv2d; use a codebook "
     "without them"),
    (lambda: dense(bias=[1]), "layer 'dense1': bias must have one value for each of 2 outputs, "
     "not 1"),
    (lambda: dense(assignment=[0, 1]),
     "layer 'dense1': assignment must have 2 dimensions, not 1"),
    (lambda: dense(name="a b"), "layer 'a b': name must be letters, digits and underscores, "
     "because it names a module of the Verilog"),
    (lambda: network(dense(assignment=[[0], [1]])),
     "layer 'dense1': must read a vector of 1, but layer 'flat' gives shape (4,)"),
    (lambda: network(dense(table=[[0, 1, 2]] * 3)),
     "layer 'dense1': table must be 3 entries by 4 codes, not (3, 3)"),
    (lambda: network(dense(source="nowhere")),
     "layer 'dense1': reads 'nowhere', which must be an earlier layer"),
    (lambda: network(dense(), dense("dense2", "dense1", assignment=[[0, 1], [1, 0]])),
     "layer 'dense2': must read codes, but layer 'dense1' gives raw integers; "
     "give that layer a staircase"),
    (lambda: network(dense(), dense()), "layer 'dense1': name must be used once"),
    (lambda: network(dense(), dense("dense2")), "layer 'dense1': is read by no layer; remove it"),
    (lambda: network(dense(dictionary=[2**51, 0, 1])),
     "layer 'dense1': accumulators must lie within +-2**52; use fewer bits a value"),
    (lambda: Network(name="net", layers=(FLAT,)),
     "network 'net': its first layer must be the input, and no other"),
    (lambda: Network(name="net", layers=(PIXELS,)),
     "network 'net': must have a layer behind the input"),
    (lambda: replace(PIXELS, shape=(0, 1, 1)), "layer 'pixels': shape must be height, width and "
     "channels, each at least 1, not (0, 1, 1)"),
    (lambda: Levels(values=[1, 1]), "levels must be two or more and strictly increasing"),
    (lambda: Staircase(thresholds=[[2, 1, 3]], levels=LEVELS),
     "thresholds must be in increasing order within each row"),
    (lambda: Staircase(thresholds=[[1, 2]], levels=LEVELS),
     "staircase must have one threshold fewer than its 4 levels, not 2"),
    (lambda: Staircase(thresholds=[[1, 2, 3]], levels=LEVELS, directions=[2]),
     "directions must be +1, -1 or 0, one for each row of thresholds"),
    (lambda: Staircase(thresholds=[[1, 2, 3]], levels=LEVELS, constants=[1]),
     "constants must be codes where the direction is 0, and 0 elsewhere"),
    (lambda: network(dense(staircase=Staircase(thresholds=[[1, 2, 3]] * 3, levels=LEVELS))),
     "layer 'dense1': staircase must have 1 row or 2, not 3"),
])
def test_wrong_networks_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        make()
