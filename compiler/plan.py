"""How a network is built: folding, circuits, memories and queues.

Every legal plan of a network gives the same bits (docs/design.md). On disk it is JSON
(`nomul.compiler.plan_file`).
"""
from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nomul.compiler.circuits import legal_circuits
from nomul.compiler.engine import Program, engine_circuits, program
from nomul.compiler.errors import PlanError
from nomul.compiler.flow import Fold, Stage, queue_depths, stages, window_of
from nomul.compiler.layers import (
    Argmax,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Layer,
    MaxPool,
    SumPool,
    Weighted,
)
from nomul.compiler.network import Network
from nomul.compiler.values import Codes
from nomul.hw.circuits import CodeMemory, ProductCircuit, StaircaseCircuit, WeightMemory
from nomul.hw.stream import beats
from nomul.hw.table import Storage
from nomul.hw.tasks import task_cycles, total_cycles
from nomul.hw.window import minimum_depth

__all__ = [
    "EnginePlan",
    "LayerPlan",
    "Plan",
    "QueuePlan",
    "check_fold",
    "check_input_lanes",
    "check_plan",
    "engine_program",
    "intervals",
    "least_depth",
    "loads_weights",
    "plan_interval",
    "plan_stages",
    "planned_layers",
    "refuse_loads",
    "weight_words",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """How a layer is built.

    Parameters
    ----------
    name : str
        The layer.
    outputs, inputs : int
        Folding: outputs and inputs computed at once. Both are the lanes of a layer whose
        channels do not meet (depthwise convolution, pooling, addition).
    product : ProductCircuit
    products_in, weights_in, constants_in : Storage
        What holds product tables; assignments and embedding tables; offsets or thresholds.
    buffer_in : Storage
        What the layer's buffer is: block RAM, registered or not. Small ones may be distributed RAM.
        Of an addition, `Storage.REGISTERED` puts registers behind the queues that it reads, and
        behind itself a stage that no path of ``ready`` crosses: where branches meet and fork
        again, these are long.
    staircase : StaircaseCircuit
    staircase_in : Storage
        What holds the tables of a staircase that is looked up.
    depth : int
        Beats of ``inputs`` codes that the layer's buffer holds: the replay buffer of a
        dense layer (0 builds none, which needs all outputs at once), or the rows of a window.
    parity : bool
        Whether words of tables have a parity bit, which is checked when they are read.
    spread : int
        If not 0, words of weights after every so many others are spread over these
        (`nomul.hw.spread`), which fills block RAM better. Only of a dense layer or a convolution
        whose weights are read and all have one width.
    """

    name: str
    outputs: int
    inputs: int
    product: ProductCircuit
    products_in: Storage
    weights_in: Storage
    constants_in: Storage
    staircase: StaircaseCircuit
    depth: int
    buffer_in: Storage = Storage.BLOCK
    staircase_in: Storage = Storage.LOGIC
    parity: bool = False
    spread: int = 0

    @property
    def fold(self) -> Fold:
        return self.outputs, self.inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlan:
    """A queue between the layer where a branch forks off and its reader.

    Parameters
    ----------
    source, reader : str
        The layers.
    depth : int
        Beats of ``source`` that it holds.
    """

    source: str
    reader: str
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """One engine that works on layer after layer (`nomul.hw.engine`).

    Parameters
    ----------
    lanes : int
        Outputs computed at once.
    product : ProductCircuit
        Shift-add or table.
    products_in : Storage
        What holds product tables.
    staircase : StaircaseCircuit
        Shift-clip or search.
    memories : Storage
        What codes, weights and constants lie in: block RAM, registered or not.
    codes_in : CodeMemory
        What codes lie in between layers.
    weights_in : WeightMemory
        What weights lie in.
    """

    lanes: int
    product: ProductCircuit
    products_in: Storage
    staircase: StaircaseCircuit
    memories: Storage
    codes_in: CodeMemory = CodeMemory.BLOCK
    weights_in: WeightMemory = WeightMemory.BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a network is built: a pipeline of its layers, or one engine.

    Parameters
    ----------
    network : str
        Digest of the network.
    input_lanes : int
        Codes that enter at once.
    layers : tuple of LayerPlan
        Those of all layers but input, flatten and argmax, in the network's order; none if there is
        an engine.
    queues : tuple of QueuePlan
    engine : EnginePlan, optional
        Instead of a pipeline.
    """

    network: str
    input_lanes: int
    layers: tuple[LayerPlan, ...]
    queues: tuple[QueuePlan, ...] = ()
    engine: EnginePlan | None = None

    def __getitem__(self, name: str) -> LayerPlan:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)


def planned_layers(network: Network) -> list[Layer]:
    """The layers that a plan has something to say of."""
    return [layer for layer in network.layers
            if not isinstance(layer, Input | Flatten | Argmax)]


def plan_stages(plan: Plan, network: Network) -> dict[str, Stage]:
    """How each layer takes part in the pipeline."""
    return stages(network, plan.input_lanes, {entry.name: entry.fold for entry in plan.layers},
                  {entry.name: entry.product for entry in plan.layers})


def engine_program(network: Network, engine: EnginePlan) -> Program:
    """What ``engine`` does for ``network``."""
    return program(network, lanes=engine.lanes, product=engine.product,
                   staircase=engine.staircase, codes_in=engine.codes_in)


def loads_weights(plan: Plan) -> bool:
    """Whether a stream must fill the memory of weights before images are taken."""
    return plan.engine is not None and plan.engine.weights_in is WeightMemory.SPRAM


def refuse_loads(network: Network, plan: Plan, what: str) -> None:
    """`PlanError` if weights must be loaded, which nothing does for ``what``."""
    if loads_weights(plan):
        raise PlanError(f"network {network.name!r} must have its weights in block RAM for {what}: "
                        "nothing there loads them into SPRAM; build it with --weights-in block")


def plan_interval(plan: Plan, network: Network) -> int:
    """Ideal cycles between inferences: those of the slowest layer of a pipeline, or of all tasks
    of an engine."""
    if plan.engine is None:
        return max(intervals(plan, network).values())
    tasks = engine_program(network, plan.engine)
    return total_cycles(tasks.tasks, _engine_cycles(tasks, plan.engine), tasks.image_length)


def _engine_cycles(tasks: Program, engine: EnginePlan) -> list[int]:
    multiply = engine.products_in.latency if engine.product is ProductCircuit.TABLE else 1
    return task_cycles(tasks.tasks, lanes=engine.lanes, read=engine.memories.latency,
                       multiply=multiply, search_bits=tasks.search_bits)


def intervals(plan: Plan, network: Network) -> dict[str, int]:
    """Ideal cycles of an inference in every part of a pipeline, or in every task of an engine."""
    if plan.engine is not None:
        tasks = engine_program(network, plan.engine)
        return dict(zip(tasks.layers, _engine_cycles(tasks, plan.engine), strict=True))
    return {name: stage.cycles for name, stage in plan_stages(plan, network).items()
            if not isinstance(network[name], Flatten)}


def check_fold(network: Network, layer: Layer, outputs: int, inputs: int) -> None:
    """`PlanError` unless ``layer`` can compute so many outputs and inputs at once."""
    where = f"plan: layer {layer.name!r} must"
    most = _most_lanes(network, layer)
    for what, lanes, limit in zip(("outputs", "inputs"), (outputs, inputs), most, strict=True):
        if not 1 <= lanes <= limit:
            raise PlanError(f"{where} compute 1 to {limit} {what} at once, not {lanes}; "
                            "change its fold")
    if layer.lanewise:
        if outputs != inputs:
            raise PlanError(f"{where} compute as many outputs as inputs at once, because its "
                            f"channels do not meet, not {outputs} and {inputs}; change its fold")
    elif isinstance(layer, Conv2d) and layer.groups > 1:
        for what, lanes, limit in zip(("outputs", "inputs"), (outputs, inputs), most, strict=True):
            if limit % lanes:
                raise PlanError(f"{where} compute a divisor of its group's {limit} {what} at "
                                f"once, not {lanes}; change its fold")


def check_input_lanes(network: Network, lanes: int) -> None:
    """`PlanError` unless so many codes can enter ``network`` at once."""
    pixels = prod(network.input.shape)
    if not 1 <= lanes <= pixels:
        raise PlanError(f"plan: input lanes must be 1 to {pixels}, not {lanes}; "
                        "change --input-lanes")


def _most_lanes(network: Network, layer: Layer) -> Fold:
    if layer.lanewise:
        channels = network.reads(layer)[0].shape[-1]
        return channels, channels
    match layer:
        case Conv2d():
            return layer.outputs // layer.groups, layer.assignment.shape[3]
        case Dense():
            return layer.outputs, layer.fan_in
    return 1, 1


def least_depth(network: Network, layer: Layer, entry_fold: Fold) -> int:
    """Beats that the buffer of ``layer`` must hold at least; 0 if it can do without."""
    wire = network.reads(layer)[0]
    outputs, inputs = entry_fold
    match layer:
        case Dense():
            return 0 if outputs >= layer.outputs else max(2, beats(layer.fan_in, inputs))
        case Conv2d() | MaxPool() | SumPool():
            assert isinstance(wire, Codes)
            height, width, channels = wire.shape
            window = window_of(layer, wire)
            return minimum_depth(height, width, beats(channels, inputs), window.kernel,
                                 window.stride, window.padding)
    return 0


def weight_words(layer: Layer, fold: Fold) -> int:
    """Words in the weight table of a dense layer or convolution that is folded like this, each
    with a weight for every output and input computed at once; 0 if it has no such table, or one
    that is packed."""
    if not isinstance(layer, Dense | Conv2d) or layer.lanewise or layer.widths is not None:
        return 0
    outputs, inputs = fold
    if isinstance(layer, Dense):
        return beats(layer.outputs, outputs) * beats(layer.fan_in, inputs)
    return (beats(layer.outputs, outputs) * prod(layer.window.kernel)
            * beats(layer.assignment.shape[3], inputs))


def _check_spread(layer: Layer, entry: LayerPlan) -> None:
    words = 0 if entry.product is ProductCircuit.UNROLLED else weight_words(layer, entry.fold)
    if entry.spread and not 0 < entry.spread < words * (words > 2):
        most = (f"by 1 to {words - 1}" if words > 2
                else "by 0, because it does not read three words of one width")
        raise PlanError(f"plan: layer {layer.name!r} must spread its weights {most}, "
                        f"not {entry.spread}; change its spread")


def check_plan(plan: Plan, network: Network) -> None:
    """`PlanError` unless ``plan`` is a legal one for ``network``."""
    if plan.network != network.digest:
        raise PlanError(f"plan: must be of network {network.name!r} ({network.digest[:12]}), not "
                        f"of one with digest {plan.network[:12]}; make a plan for this network")
    check_input_lanes(network, plan.input_lanes)
    if plan.engine is not None:
        _check_engine(plan, plan.engine, network)
        return
    layers = planned_layers(network)
    expected, given = [layer.name for layer in layers], [entry.name for entry in plan.layers]
    for name in given:
        if name not in expected:
            raise unknown_layer(network, name)
    if given != expected:
        raise PlanError(f"plan: must have the layers {', '.join(expected)} in this order, "
                        f"not {', '.join(given) or 'none'}")
    for layer, entry in zip(layers, plan.layers, strict=True):
        check_fold(network, layer, entry.outputs, entry.inputs)
        products, staircases = legal_circuits(network, layer)
        for what, choice, legal in (("products", entry.product, products),
                                    ("staircase", entry.staircase, staircases)):
            if choice not in legal:
                raise PlanError(f"plan: layer {layer.name!r} must make its {what} by "
                                f"{' or '.join(c.value for c in legal)}, not {choice.value}: "
                                "that circuit would give other bits")
        if entry.product is ProductCircuit.UNROLLED and entry.fold != _most_lanes(network, layer):
            raise PlanError(f"plan: layer {layer.name!r} must compute all of its outputs and "
                            f"inputs at once to be unrolled, not {entry.outputs} and "
                            f"{entry.inputs}; change its fold or its products")
        _check_spread(layer, entry)
        if entry.product is ProductCircuit.BUCKETS:
            _check_buckets(layer, entry)
        least = least_depth(network, layer, entry.fold)
        if entry.depth < least and not (isinstance(layer, Weighted | MaxPool | SumPool) and least):
            raise PlanError(f"plan: layer {layer.name!r}: depth must be at least 0")
        if entry.depth < least:
            raise PlanError(f"plan: layer {layer.name!r} must have a buffer of at least {least} "
                            f"beats, not {entry.depth}; increase its depth")
        if entry.buffer_in is Storage.LOGIC:
            raise PlanError(f"plan: layer {layer.name!r} must have its buffer in block or "
                            "registered, not in logic; change its buffer_in")
        if isinstance(layer, Dense) and entry.depth == 1:
            raise PlanError(f"plan: layer {layer.name!r} must have a buffer of 0 or at least 2 "
                            "beats, not 1; change its depth")
    _check_queues(plan, network)


def _check_buckets(layer: Layer, entry: LayerPlan) -> None:
    if entry.inputs != 1:
        raise PlanError(f"plan: layer {layer.name!r} must compute 1 input at once for "
                        f"bucket-accumulate, not {entry.inputs}: a bucket takes one code a cycle; "
                        "change its fold or its products")
    if isinstance(layer, Dense) and layer.corrections is not None:
        raise PlanError(f"plan: layer {layer.name!r} must have no corrections for "
                        f"bucket-accumulate, not {len(layer.corrections)}: they would wait for its "
                        "buckets; change its products")


def _check_engine(plan: Plan, engine: EnginePlan, network: Network) -> None:
    if plan.layers or plan.queues:
        raise PlanError("plan: must have layers or an engine, not both; leave out one of them")
    if engine.lanes < 1:
        raise PlanError(f"plan: engine must compute at least 1 output at once, "
                        f"not {engine.lanes}; change its lanes")
    if engine.memories is Storage.LOGIC:
        raise PlanError("plan: engine must have its memories in block or registered, not in logic; "
                        "change its memories")
    products, staircases = engine_circuits(network)
    for what, choice, legal in (("products", engine.product, products),
                                ("staircases", engine.staircase, staircases)):
        if choice not in legal:
            raise PlanError(f"plan: engine must make its {what} by "
                            f"{' or '.join(c.value for c in legal)}, not {choice.value}: "
                            "that circuit would give other bits")


def _check_queues(plan: Plan, network: Network) -> None:
    needed = queue_depths(network, plan_stages(plan, network))
    depths = {(queue.source, queue.reader): queue.depth for queue in plan.queues}
    if len(depths) != len(plan.queues):
        raise PlanError("plan: there must be one queue at most from a layer to a reader")
    for source, reader in depths:
        if source not in network.wires or reader not in network.wires or (
                source not in network[reader].inputs):
            raise PlanError(f"plan: queue from {source!r} to {reader!r} must join two layers that "
                            "the network joins; remove it")
    for (source, reader), least in needed.items():
        depth = depths.get((source, reader), 0)
        if depth < least:
            raise PlanError(f"plan: queue from {source!r} to {reader!r} must hold at least "
                            f"{least} beats, not {depth}: the branches would deadlock; "
                            "increase its depth")
    for (source, reader), depth in depths.items():
        if depth < 1:
            raise PlanError(f"plan: queue from {source!r} to {reader!r} must hold at least 1 "
                            f"beat, not {depth}; leave it out")


def unknown_layer(network: Network, name: str) -> PlanError:
    """The error for a layer that a plan cannot speak of."""
    known = ", ".join(layer.name for layer in planned_layers(network))
    return PlanError(f"plan: layer {name!r} must be one of network {network.name!r} that are "
                     f"planned: {known}")
