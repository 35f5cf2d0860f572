"""How much of its lanes and of its block RAM a plan uses."""
from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nomul.compiler.layers import Weighted
from nomul.compiler.network import Network
from nomul.compiler.plan import (
    LayerPlan,
    Plan,
    engine_program,
    intervals,
    loads_weights,
    plan_interval,
)
from nomul.hw.circuits import ProductCircuit
from nomul.hw.table import Storage

__all__ = ["LaneUse", "lane_use", "weight_bits_in_block_ram"]


@dataclass(frozen=True, kw_only=True)
class LaneUse:
    """Cycles in which lanes of dense layers and convolutions add a product, in an inference.

    Parameters
    ----------
    products : int
        One for each weight and position: useful lane-cycles.
    working : int
        Lane-cycles until each layer is done: those of lanes without an input or an output too.
    interval : int
        Lane-cycles until the next inference, those of layers that wait for a slower one too.
    """

    products: int
    working: int
    interval: int

    @property
    def while_working(self) -> float:
        """Useful share of the lane-cycles in which a layer works."""
        return self.products / self.working

    @property
    def throughout(self) -> float:
        """Useful share of all lane-cycles."""
        return self.products / self.interval


def lane_use(network: Network, plan: Plan) -> LaneUse:
    """How the lanes of ``plan`` are used.

    All lanes of an engine work on one layer after the other, so its layers wait for nothing but
    what stands between two of them. `ValueError` if no layer has weights.
    """
    layers = [layer for layer in network.layers if isinstance(layer, Weighted)]
    if not layers:
        raise ValueError(f"Network {network.name!r} must have weights for lanes to be used")
    cycles, total = intervals(plan, network), plan_interval(plan, network)
    products = {layer.name: layer.assignment.size * prod(network.wires[layer.name].shape[:-1])
                for layer in layers}
    if plan.engine is not None:
        lanes = plan.engine.lanes
        tasks = engine_program(network, plan.engine).layers
        return LaneUse(products=sum(products.values()), interval=lanes * total,
                       working=lanes * sum(cycles[name] for name in tasks if name in products))
    lanes_of = {layer.name: prod(plan[layer.name].fold[layer.lanewise:]) for layer in layers}
    return LaneUse(products=sum(products.values()),
                   working=sum(lanes_of[name] * cycles[name] for name in products),
                   interval=sum(lanes_of[name] * total for name in products))


def weight_bits_in_block_ram(network: Network, plan: Plan) -> int:
    """Bits of the assignments that ``plan`` keeps in block RAM; of an engine, all of them, or none
    if they are loaded into SPRAM."""
    if loads_weights(plan):
        return 0
    return sum(layer.stored_bits if layer.widths is not None
               else layer.assignment.size * max(1, layer.assignment_bits)
               for layer in network.layers if isinstance(layer, Weighted)
               and (plan.engine is not None or _in_block(plan[layer.name])))


def _in_block(entry: LayerPlan) -> bool:
    return (entry.weights_in is not Storage.LOGIC
            and entry.product is not ProductCircuit.UNROLLED)
