# amaranth: UnusedElaboratable=no
# (Parts may be made only to be asked for their latency.)
"""A network and the plan of an engine to hardware."""
from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

from amaranth.hdl import unsigned

from nomul.compiler.coders import Parts
from nomul.compiler.engine import front
from nomul.compiler.layers import Argmax
from nomul.compiler.network import Network
from nomul.compiler.plan import EnginePlan, engine_program
from nomul.hw.argmax import Argmax as ArgmaxUnit
from nomul.hw.chain import Chain
from nomul.hw.circuits import CodeMemory, ProductCircuit, WeightMemory
from nomul.hw.embedding import Embedding
from nomul.hw.engine import Engine, SharedProducts
from nomul.hw.graph import Graph
from nomul.hw.product import ShiftAddProducts
from nomul.hw.stream import Regroup

__all__ = ["lower_engine"]


def lower_engine(network: Network, engine: EnginePlan, input_lanes: int) -> Graph:
    """An embedding in front where there is one, the engine by the name of the layer whose results
    it gives, and the class.

    A stream of codes in, a stream of results out.
    """
    tasks, embedding = engine_program(network, engine), front(network)
    entrance, channels = network.input, network.input.shape[-1]
    parts: Parts = {}
    code, lanes, length = unsigned(entrance.levels.bits), input_lanes, prod(entrance.shape)
    if embedding is not None:
        table = Embedding(embedding.table.tolist(), code_shape=embedding.levels.bits,
                          channels=channels, storage=engine.memories)
        parts[embedding.name] = _behind(_one_by_one(code, lanes, length), {"table": table})
        code, lanes = unsigned(embedding.levels.bits), table.depth
        length = lanes
    products: ShiftAddProducts | SharedProducts
    if engine.product is ProductCircuit.SHIFT_ADD:
        products = ShiftAddProducts(tasks.table.tolist(), lanes=engine.lanes, inputs=1)
    else:
        products = SharedProducts(tasks.table.tolist(), lanes=engine.lanes,
                                  storage=engine.products_in)
    unit = Engine(
        tasks.tasks, words=tasks.words.tolist(), products=products, constants=tasks.constants,
        thresholds=None if tasks.thresholds is None else tasks.thresholds.tolist(),
        code_shape=tasks.code_shape, image_shape=tasks.image_shape,
        image_length=tasks.image_length, depths=tasks.depths,
        one_port=engine.codes_in is CodeMemory.SINGLE_PORT, acc_shape=tasks.acc_shape,
        sum_shape=tasks.sum_shape, o_shape=tasks.result_shape, raw=tasks.raw,
        storage=engine.memories, loaded=engine.weights_in is WeightMemory.SPRAM)
    parts[tasks.layers[-1]] = _behind(_one_by_one(code, lanes, length), {"engine": unit})
    last = network.layers[-1]
    if isinstance(last, Argmax):
        parts[last.name] = ArgmaxUnit(tasks.result_shape, lanes=1,
                                      length=network.reads(last)[0].shape[-1])
    names = ["i", *parts, "o"]
    return Graph(parts, list(pairwise(names)))


def _one_by_one(code: Any, lanes: int, length: int) -> Parts:
    """What gives vectors of codes, which come in beats of ``lanes``, one by one; maybe nothing."""
    return {} if lanes == 1 else {
        "gather": Regroup(code, i_lanes=lanes, o_lanes=1, length=length)}


def _behind(gather: Parts, unit: Parts) -> Any:
    """``unit``, behind what it needs."""
    return Chain(gather | unit) if gather else next(iter(unit.values()))
