"""Tables that logic fills, counted before any is mapped."""
from __future__ import annotations

from typing import Any

import pytest

from nomul.boards.cover import tables


def bits(count: int, start: int) -> list[int]:
    return list(range(start, start + count))


def cell(kind: str, parameters: dict[str, Any] | None = None, **pins: list[Any]) -> dict[str, Any]:
    return {"type": kind, "parameters": parameters or {}, "connections": pins}


def module(outputs: list[Any], **cells: dict[str, Any]) -> dict[str, Any]:
    return {"cells": cells, "ports": {"o": {"direction": "output", "bits": outputs}}}


def count(outputs: list[Any], *, carry: bool = False, **cells: dict[str, Any]) -> dict[str, int]:
    return dict(tables(module(outputs, **cells), carry=carry))


def test_a_gate_of_each_bit_is_a_table() -> None:
    both = {"A": bits(3, 2), "B": bits(3, 10)}
    assert count([20, 21, 22], x=cell("$and", **both, Y=bits(3, 20))) == {"gate": 3}
    assert count([20, 21, 22], x=cell("$xor", **both, Y=bits(3, 20))) == {"inversion": 3}
    choice = cell("$mux", **both, S=[30], Y=bits(3, 20))
    assert count([20, 21, 22], x=choice) == {"choice": 3}


def test_what_is_not_read_and_what_is_constant_is_none() -> None:
    gates = cell("$and", A=[2, 3, "1"], B=[10, "0", 12], Y=bits(3, 20))
    assert count([20, 21, 22], x=gates) == {"gate": 1}
    assert count([], x=gates) == {}
    assert count([20, 21], x=cell("$not", A=[2, 3], Y=[20, 21])) == {}


def test_equal_ones_are_made_once() -> None:
    assert count([20, 21], x=cell("$and", A=[2], B=[3], Y=[20]),
                 y=cell("$and", A=[3], B=[2], Y=[21])) == {"gate": 1}
    # The twins: other gates, and comparisons with other constants, are not equal.
    assert count([20, 21], x=cell("$and", A=[2], B=[3], Y=[20]),
                 y=cell("$or", A=[3], B=[2], Y=[21])) == {"gate": 2}
    compared = [cell("$eq", A=[2, 3], B=[low, "1"], Y=[20 + n]) for n, low in enumerate("010")]
    assert count([20, 21, 22], x=compared[0], y=compared[1], z=compared[2]) == {"gate": 2}


@pytest.mark.parametrize(("inputs", "expected"), [(2, 1), (4, 1), (5, 2), (7, 2), (8, 3), (16, 5)])
def test_a_wide_gate_is_a_tree_of_four(inputs: int, expected: int) -> None:
    found = count([99], x=cell("$reduce_or", A=bits(inputs, 2), Y=[99]))
    assert abs(sum(found.values()) - expected) <= inputs // 8


def test_gates_go_into_the_tables_that_read_them() -> None:
    chain = {"a": cell("$and", A=[2], B=[3], Y=[20]), "b": cell("$or", A=[20], B=[4], Y=[21]),
             "c": cell("$xor", A=[21], B=[5], Y=[22])}
    assert count([22], **chain) == {"inversion": 1}
    # Read elsewhere too, it stays; read by two that have room, it goes.
    assert sum(count([22, 20], **chain).values()) == 2
    two = {"a": chain["a"], "b": chain["b"], "d": cell("$or", A=[20], B=[6], Y=[23])}
    assert count([21, 23], **two) == {"gate": 2}
    full = two | {"e": cell("$mux", A=[20], B=[7], S=[8], Y=[24]),
                  "f": cell("$xor", A=[24], B=[9], Y=[25])}
    assert sum(count([21, 23, 25], **full).values()) == 4


def test_choices_by_an_index() -> None:
    words = bits(8, 2)
    four = cell("$bmux", A=words[:4], S=[30, 31], Y=[40])
    assert count([40], x=four) == {"choice": 3}
    eight = cell("$bmux", A=words, S=[30, 31, 32], Y=[40])
    assert count([40], x=eight) == {"choice": 7}
    shift = cell("$shr", A=bits(8, 2), B=[30, 31], Y=bits(8, 40))
    assert 12 <= count(bits(8, 40), x=shift)["choice"] <= 16


def test_small_memories_are_tables() -> None:
    rom = cell("$mem_v2", {"WIDTH": 2, "SIZE": 16, "WR_PORTS": 0, "RD_CLK_ENABLE": "0",
                           "INIT": "01" * 16}, RD_ADDR=bits(4, 2), RD_DATA=[20, 21])
    assert count([20, 21], x=rom) == {}, "all words are equal"
    rom["parameters"]["INIT"] = "01" * 8 + "11" * 8
    assert count([20, 21], x=rom) == {"rom": 1}
    rom["parameters"]["RD_CLK_ENABLE"] = "1"
    assert count([20, 21], x=rom) == {}


def addition(a: list[Any], **more: Any) -> dict[str, Any]:
    return cell("$alu", A=a, B=[60, 61], BI=more.get("invert", ["0"]), CI=["0"], X=[70, 71],
                Y=[72, 73], CO=[74, 75])


def test_tables_move_into_carry_cells() -> None:
    masked = {"mask": cell("$and", A=[2, 3], B=[4, 4], Y=[20, 21]), "sum": addition([20, 21])}
    assert count([72, 73], **masked) == {"gate": 2}
    assert count([72, 73], carry=True, **masked) == {}
    # Not where anything else reads them, nor where four inputs come together.
    assert count([72, 73, 20], carry=True, **masked) == {"gate": 1}
    wide = {"mask": cell("$mux", A=[2, 3], B=[4, 5], S=[6], Y=[20, 21]),
            "inverse": cell("$xor", A=[20, 21], B=[7, 7], Y=[22, 23]), "sum": addition([22, 23])}
    assert sum(count([72, 73], carry=True, **wide).values()) == 2
    held = {"mask": masked["mask"], "sum": addition([30, 31]),
            "held": cell("$dff", D=[20, 21], Q=[30, 31], CLK=[1])}
    assert count([72, 73], carry=True, **held) == {}
    assert count([72, 73, 30], carry=True, **held) == {"gate": 1}


def test_an_operand_that_may_be_inverted_takes_tables() -> None:
    both = {"sum": addition([2, 3], invert=[5])}
    assert count([72, 73], **both) == {"inversion": 2}
    assert count([72, 73], carry=True, **both) == {}
