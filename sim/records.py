"""Beats of every layer: recorded inside the simulator, compared outside it.

A net gives hundreds of thousands of beats an image. Python that wakes up for each of them would
take longer than the circuit; a few lines of Verilog that write them to a file do not.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from nomul.compiler.emit import Emitted, Port
from nomul.compiler.values import Ints

__all__ = ["Comparison", "beats_of", "bench_verilog", "compare", "read_records"]

# Hexadecimal digits of a line before the payload: the run, the cycle.
_RUN_DIGITS, _CYCLE_DIGITS = 2, 12

_RECORDER = """\
module {name}_recorder #(parameter BITS = 1, parameter BEATS = 1, parameter FILE = "")
    (input clk, input rst, input [7:0] run, input [47:0] cycle, input [31:0] images,
     input [BITS-1:0] payload, input valid, input ready, output done);
  integer file;
  reg [31:0] beat, image;
  assign done = image == images;
  initial file = $fopen(FILE, "w");
  always @(posedge clk)
    if (rst) begin
      beat <= 0;
      image <= 0;
    end else if (valid && ready && !done) begin
      $fwrite(file, "%h%h%h\\n", run, cycle, payload);
      beat <= beat == BEATS - 1 ? 0 : beat + 1;
      if (beat == BEATS - 1) image <= image + 1;
    end
endmodule
"""

# Sends the bytes of a file, in hexadecimal, after each reset; `stall` of 256 times it waits.
_LOADER = """\
module {name}_loader #(parameter BYTES = 1, parameter FILE = "")
    (input clk, input rst, input [7:0] stall, output [7:0] tdata, output reg tvalid, input tready,
     output tlast);
  reg [7:0] content [0:BYTES-1];
  reg [31:0] place, random;
  wire [31:0] next = place + (tvalid && tready);
  assign tdata = content[place];
  assign tlast = place == BYTES - 1;
  initial $readmemh(FILE, content);
  always @(posedge clk) begin
    random <= rst ? 32'h2545f491
        : {{random[30:0], random[31] ^ random[21] ^ random[1] ^ random[0]}};
    place <= rst ? 0 : next;
    tvalid <= !rst && next < BYTES && ((tvalid && !tready) || random[7:0] >= stall);
  end
endmodule
"""


def beats_of(shape: tuple[int, ...], lanes: int) -> int:
    """Beats of a layer's output of ``shape``: its last axis is a vector, which starts a beat."""
    return prod(shape[:-1]) * -(-shape[-1] // lanes)


def bench_verilog(name: str, circuit: Emitted, beats: list[int]) -> str:
    """The module ``<name>_bench``: the network ``name``, and a recorder at each tap and at the
    result, which write the files ``0.beats``, ``1.beats``, … in this order.

    It has the network's ports and these:

    - ``run``: number that is written with every beat; ``images``: how many are due;
    - ``cycle``: clock cycles since reset;
    - ``weights_stall``: of 256 cycles, those that a byte of the weights waits, where weights are to
      be loaded: from the file ``weights.hex``, after each reset; ``ready_to_play``: they are there,
      or not needed;
    - ``done``: all beats of all images have come, everywhere.

    Parameters
    ----------
    beats : list of int
        Beats an image, for each tap and for the result.
    """
    i_bits, o_bits = (port.lanes * port.bits for port in (circuit.s_axis, circuit.m_axis))
    streams = [(tap.lanes * tap.bits, f"network.body.{tap.layer}__{{}}") for tap in circuit.taps]
    streams.append((o_bits, "m_axis_t{}"))
    recorders = "".join(
        f"  {name}_recorder #(.BITS({bits}), .BEATS({count}), .FILE(\"{number}.beats\")) "
        f"recorder_{number} (.clk(clk), .rst(rst), .run(run), .cycle(cycle), .images(images), "
        f".payload({wire.format('data' if number == len(beats) - 1 else 'payload')}), "
        f".valid({wire.format('valid')}), .ready({wire.format('ready')}), "
        f".done(seen[{number}]));\n"
        for number, ((bits, wire), count) in enumerate(zip(streams, beats, strict=True)))
    ports = ("s_axis_tdata", "s_axis_tvalid", "s_axis_tready", "s_axis_tlast", "m_axis_tdata",
             "m_axis_tvalid", "m_axis_tready", "m_axis_tlast", "frame_error", "clk", "rst")
    links, loader, text = [f".{port}({port})" for port in ports], "", _RECORDER.format(name=name)
    if circuit.weights:
        text += _LOADER.format(name=name)
        beat = ("tdata", "tvalid", "tready", "tlast")
        links += [*(f".s_axis_weights_{part}(weights_{part})" for part in beat),
                  ".weights_loaded(ready_to_play)"]
        loader = f"""\
  wire [7:0] weights_tdata;
  wire weights_tvalid, weights_tready, weights_tlast;
  {name}_loader #(.BYTES({len(circuit.weights)}), .FILE("weights.hex")) loader
      (.clk(clk), .rst(rst), .stall(weights_stall),
       {', '.join(f'.{part}(weights_{part})' for part in beat)});
"""
    else:
        loader = "  assign ready_to_play = 1;\n"
    return text + f"""\
module {name}_bench
    (input clk, input rst, input [7:0] run, input [31:0] images, input [7:0] weights_stall,
     input [{i_bits - 1}:0] s_axis_tdata, input s_axis_tvalid, output s_axis_tready,
     input s_axis_tlast, output [{o_bits - 1}:0] m_axis_tdata, output m_axis_tvalid,
     input m_axis_tready, output m_axis_tlast, output frame_error,
     output reg [47:0] cycle, output done, output ready_to_play);
  wire [{len(beats) - 1}:0] seen;
  assign done = &seen;
  always @(posedge clk) cycle <= rst ? 0 : cycle + 1;
  {name} network ({', '.join(links)});
{loader}{recorders}endmodule
"""


def read_records(path: Path, port: Port, run: int) -> tuple[Ints, Ints]:
    """Cycles of the beats that ``run`` left in a recorder's file, and their elements, shape
    [beats, lanes]."""
    size = port.lanes * port.bits
    head = _RUN_DIGITS + _CYCLE_DIGITS
    width = head + -(-size // 4) + 1
    text = np.fromfile(path, dtype=np.uint8)
    # A simulator that was stopped may have left a part of a line.
    lines = text[:len(text) // width * width].reshape(-1, width)[:, :-1]
    digits = np.where(lines >= ord("a"), lines - (ord("a") - 10), lines - ord("0"))
    digits = digits[digits[:, :_RUN_DIGITS].astype(np.int64) @ _places(_RUN_DIGITS) == run]
    cycles = digits[:, _RUN_DIGITS:head].astype(np.int64) @ _places(_CYCLE_DIGITS)
    nibbles = digits[:, :head - 1:-1, None]  # the lowest one first
    bits = nibbles >> np.arange(4, dtype=np.uint8) & 1
    bits = bits.reshape(len(digits), 4 * -(-size // 4))[:, :size]
    weights = 1 << np.arange(port.bits)
    if port.signed:
        weights[-1] = -weights[-1]
    elements = bits.reshape(-1, port.bits).astype(np.int64) @ weights
    return cycles, elements.reshape(-1, port.lanes)


def _places(count: int) -> Ints:
    """Weights of ``count`` hexadecimal digits, the highest first."""
    places: Ints = 16 ** np.arange(count, dtype=np.int64)[::-1]
    return places


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a layer gave in one run, against what is due.

    Parameters
    ----------
    seen : int
        Beats that came.
    got : array of int, shape [images, elements]
        What came of each image, as far as it came whole.
    wrong : set of int
        Images with a wrong beat.
    first_difference : dict or None
        The earliest wrong element: layer, image, position, expected, got, cycle.
    timeline : list of dict
        For each image: layer, image, first and last cycle.
    """

    seen: int
    got: Ints
    wrong: set[int]
    first_difference: dict[str, Any] | None
    timeline: list[dict[str, Any]]


def compare(path: Path, port: Port, due: Ints, run: int) -> Comparison:
    """The beats that ``run`` left in a recorder's file at ``path``, against ``due``.

    Parameters
    ----------
    due : array of int, shape [images, *layer's shape]
        What the golden model gives.
    """
    cycles, elements = read_records(path, port, run)
    shape, lanes = due.shape[1:], port.lanes
    length, each = shape[-1], beats_of(shape, lanes)
    vector = -(-length // lanes)  # beats of one
    wrong, whole, timeline = set(), [], []
    first: dict[str, Any] | None = None
    for image, expected in enumerate(due.reshape(len(due), -1)):
        when, beats = cycles[image * each:(image + 1) * each], elements[image * each:]
        if not len(when):
            break
        timeline.append({"layer": port.layer, "image": image, "first": int(when[0]),
                         "last": int(when[-1])})
        vectors = len(when) // vector
        got = beats[:vectors * vector].reshape(vectors, -1)[:, :length].reshape(-1)
        if len(got) == len(expected):
            whole.append(got)
        differs, = np.nonzero(got != expected[:len(got)])
        if len(differs):
            wrong.add(image)
            at = int(differs[0])
            first = first or {
                "layer": port.layer, "image": image,
                "cycle": int(when[at // length * vector + at % length // lanes]),
                "position": [int(n) for n in np.unravel_index(at, shape)],
                "expected": int(expected[at]), "got": int(got[at])}
    return Comparison(seen=len(cycles), got=np.array(whole), wrong=wrong, first_difference=first,
                      timeline=timeline)
