"""What the tests of the trainer share: one thread of torch, and models of each constraint."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from nomul.compiler.quantize.constraints import (
    Binary,
    Constraint,
    Fixed,
    Free,
    PowerOfTwo,
    Pruned,
    Ternary,
)
from nomul.compiler.quantize.recipes import Recipe, recipe_of

CONSTRAINTS: dict[str, Constraint] = {
    "free": Free(bits=4),
    "pow2": PowerOfTwo(bits=3),
    "pruned": Pruned(bits=4, fraction=0.7),
    "binary": Binary(),
    "ternary": Ternary(),
    "fixed": Fixed(bits=4),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=CONSTRAINTS.values(), ids=CONSTRAINTS)
def constraint(request: pytest.FixtureRequest) -> Constraint:
    value: Constraint = request.param
    return value


@pytest.fixture
def recipe() -> Recipe:
    """The digits recipe with a checkpoint after each epoch."""
    return replace(recipe_of("digits"), checkpoint_every=1)
