"""Models of torch as lists of steps: a Sequential's chain, or what torch.fx traces.

A traced model is made of modules alone: additions, flattening and ReLUs that were
functions become modules, and a module without parameters that runs several times
becomes one for each time, so that every step has a path of its own.
"""
from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from nomul.compiler.errors import ModelError
from nomul.compiler.quantize.embedding import PixelEmbedding

__all__ = ["ENTRY", "Add", "Step", "chain", "steps", "trace"]

ENTRY = "pixels"
"""What images enter by: the path of a converted model's first module."""


class Add(nn.Module):
    """The sum of two branches, as a module."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """``first + second``, of one shape."""
        return first + second


@dataclass(frozen=True, kw_only=True)
class Step:
    """A module that runs.

    Parameters
    ----------
    path : str
        Of the module.
    module : nn.Module
        What runs.
    inputs : tuple of str
        Paths of the steps whose outputs it reads; an empty path is the model's input.
    """

    path: str
    module: nn.Module
    inputs: tuple[str, ...]


def steps(model: nn.Module) -> list[Step]:
    """Steps of a Sequential or of a model from `trace`, in the order they run.

    Raises
    ------
    ModelError
        If ``model`` is neither.
    """
    if isinstance(model, fx.GraphModule):
        paths = {node: str(node.target) if node.op == "call_module" else ""
                 for node in model.graph.nodes}
        return [Step(path=paths[node], module=model.get_submodule(paths[node]),
                     inputs=tuple(paths[source] for source in node.all_input_nodes))
                for node in model.graph.nodes if node.op == "call_module"]
    result: list[Step] = []
    for path, module in chain(model):
        result.append(Step(path=path, module=module,
                           inputs=(result[-1].path if result else "",)))
    return result


def chain(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Paths and modules of a Sequential in the order they run, nested ones unfolded.

    A module that runs several times is given each time.

    Raises
    ------
    ModelError
        If ``model`` is no Sequential, whose modules alone run in the order they have.
    """
    if not isinstance(model, nn.Sequential):
        raise ModelError(f"model must be an nn.Sequential, not {type(model).__name__}; "
                         "put its modules into one")
    containers = {""}
    for path, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Sequential:
            containers.add(path)
        elif path and path.rpartition(".")[0] in containers:
            yield path, module


class _Tracer(fx.Tracer):
    """Looks into all modules but torch's own and those that a network has a layer for."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (super().is_leaf_module(m, module_qualified_name)
                or isinstance(m, Add | PixelEmbedding))


def trace(model: nn.Module) -> fx.GraphModule:
    """A copy of ``model`` that is a graph of modules; its parameters have their old paths.

    Raises
    ------
    ModelError
        Naming what stands in the way: control flow that depends on values, or a function
        other than addition, ``flatten`` and ``relu``.
    """
    twin = copy.deepcopy(model)
    try:
        graph = _Tracer().trace(twin)
    except (TypeError, ValueError, RuntimeError, fx.proxy.TraceError) as error:
        raise ModelError(f"model {type(model).__name__}: its forward must be plain calls of "
                         f"modules, additions and flatten, to be traced by torch.fx ({error}); "
                         "write it so") from error
    result = fx.GraphModule(twin, graph, type(model).__name__)
    seen: set[str] = set()
    for node in list(graph.nodes):
        if node.op == "placeholder" or node.op == "output":
            continue
        module = _module_of(result, node)
        path = str(node.target) if node.op == "call_module" else node.name
        if path in seen:
            if any(True for _ in module.parameters()):
                raise ModelError(f"layer {path!r}: a module with weights must run once; "
                                 "give each place a module of its own")
            module, path = copy.deepcopy(module), node.name
        if node.op != "call_module" or path != node.target:
            while "." not in path and hasattr(result, path):
                path += "_"
            result.add_submodule(path, module)
        seen.add(path)
        sources = node.all_input_nodes
        if len(sources) != 1 + isinstance(module, Add):
            raise ModelError(f"layer {path!r}: must read "
                             f"{'two layers' if isinstance(module, Add) else 'one layer'}, "
                             f"not {len(sources)}; rewrite the model's forward")
        with graph.inserting_before(node):
            replaced = graph.call_module(path, tuple(sources))
        node.replace_all_uses_with(replaced)
        graph.erase_node(node)
    if sum(node.op == "placeholder" for node in graph.nodes) != 1:
        raise ModelError(f"model {type(model).__name__}: forward must have one argument, "
                         "the images")
    result.recompile()
    result.delete_all_unused_submodules()
    return result.train(model.training)


def _module_of(model: fx.GraphModule, node: fx.Node) -> nn.Module:
    """The module that does what ``node`` does."""
    if node.op == "call_module":
        return model.get_submodule(str(node.target))
    name: Any = node.target
    if name in _ADDITIONS or (node.op == "call_method" and name in ("add", "add_")):
        if not node.kwargs and all(isinstance(item, fx.Node) for item in node.args):
            return Add()
    if name in _RELUS or (node.op == "call_method" and name in ("relu", "relu_")):
        return nn.ReLU()
    if name is torch.flatten or (node.op == "call_method" and name == "flatten"):
        if (node.args[1:], dict(node.kwargs)) in (((1,), {}), ((), {"start_dim": 1})):
            return nn.Flatten()
    shown = name if isinstance(name, str) else getattr(name, "__name__", repr(name))
    raise ModelError(f"layer {node.name!r}: function must be an addition of two layers, relu or "
                     f"flatten(x, 1), not {shown}{node.args[1:] or ''}; use those, or modules")


_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELUS = (torch.relu, torch.relu_, functional.relu)
