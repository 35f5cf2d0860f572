# amaranth: UnusedElaboratable=no
"""Clocks of PLLs: exact, legal, and the nearest from below."""
from __future__ import annotations

from fractions import Fraction

import pytest
from amaranth.back import rtlil

from nomul.boards.pll import Pll, Setting, fastest, settings
from nomul.boards.targets import Family
from nomul.compiler.errors import PlanError

REFERENCES = [(Family.ICE40, 12_000_000), (Family.ECP5, 25_000_000), (Family.ECP5, 48_000_000)]


@pytest.mark.parametrize(("family", "reference"), REFERENCES)
def test_every_clock_is_exact_and_legal(family: Family, reference: int) -> None:
    clocks = settings(family, reference)
    assert [one.frequency for one in clocks] == sorted({one.frequency for one in clocks})
    assert sum(not one.uses_pll for one in clocks) == 1
    for one in clocks:
        if not one.uses_pll:
            assert one.frequency == reference
            continue
        phase = Fraction(reference, one.reference_div) / 1_000_000
        match family:
            case Family.ICE40:
                # FPGA-TN-02052, "simple" feedback: DIVR 0-15, DIVF 0-127, DIVQ 1-6.
                vco = phase * one.feedback_div
                assert one.reference_div <= 16 and one.feedback_div <= 128
                assert one.output_div in (2, 4, 8, 16, 32, 64)
                assert 10 <= phase <= 133 and 533 <= vco <= 1066
                assert 16 <= vco / one.output_div <= 275
            case Family.ECP5:
                # FPGA-TN-02200, feedback from CLKOP.
                vco = phase * one.feedback_div * one.output_div
                assert one.reference_div <= 128 and one.feedback_div <= 80
                assert one.output_div <= 128
                assert 3.125 <= phase <= 400 and 400 <= vco <= 800
        assert vco / one.output_div == one.frequency / 1_000_000
        assert vco == one.vco_hz / 1_000_000


def test_no_clock_is_missing() -> None:
    ice40 = {Fraction(12 * f, 1 << q) for f in range(1, 129) for q in range(1, 7)
             if 533 <= 12 * f <= 1066 and 16 <= 12 * f / (1 << q) <= 275}
    ecp5 = {Fraction(25 * f, r) for r in range(1, 9) for f in range(1, 81)
            if 10 <= 25 * f / r <= 400}
    for family, reference, expected in ((Family.ICE40, 12, ice40), (Family.ECP5, 25, ecp5)):
        assert {one.frequency / 1_000_000 for one in settings(family, reference * 1_000_000)
                } == expected | {Fraction(reference)}


@pytest.mark.parametrize(("family", "reference", "wanted", "dividers", "mhz"), [
    # The answers of icepll and ecppll where the wanted clock can be had exactly.
    (Family.ICE40, 12_000_000, 48, (1, 64, 16), 48),
    (Family.ICE40, 12_000_000, 60, (1, 80, 16), 60),
    (Family.ICE40, 12_000_000, 96, (1, 64, 8), 96),
    (Family.ECP5, 25_000_000, 100, (1, 4, 6), 100),
    (Family.ECP5, 48_000_000, 96, (1, 2, 6), 96),
    # Otherwise the next one below, never above.
    (Family.ICE40, 12_000_000, 42.2, (1, 56, 16), 42),
    (Family.ICE40, 12_000_000, 47.999, (1, 63, 16), 47.25),
    (Family.ECP5, 25_000_000, 99.99, (8, 31, 6), Fraction(775, 8)),
])
def test_known_dividers(family: Family, reference: int, wanted: float,
                        dividers: tuple[int, int, int], mhz: float | Fraction) -> None:
    found = fastest(family, reference, wanted)
    assert (found.reference_div, found.feedback_div, found.output_div) == dividers
    assert found.frequency == Fraction(mhz) * 1_000_000


def test_the_board_s_own_clock_needs_no_pll() -> None:
    assert fastest(Family.ICE40, 12_000_000, 15.9) == Setting(
        family=Family.ICE40, reference_hz=12_000_000, frequency=Fraction(12_000_000),
        uses_pll=False)


def test_a_clock_that_is_too_slow_is_refused() -> None:
    with pytest.raises(PlanError) as error:
        fastest(Family.ICE40, 12_000_000, 5)
    assert str(error.value) == (
        "clock must be at least 12 MHz, the slowest that 12 MHz on the board can become, not "
        "5 MHz; ask for a faster one or for fewer lanes")


@pytest.mark.parametrize(("family", "from_pad", "cell"), [
    (Family.ICE40, True, "SB_PLL40_PAD"), (Family.ICE40, False, "SB_PLL40_CORE"),
    (Family.ECP5, False, "EHXPLLL")])
def test_the_circuit_has_the_dividers(family: Family, from_pad: bool, cell: str) -> None:
    setting = fastest(family, 12_000_000, 48)
    text = rtlil.convert(Pll(setting, from_pad=from_pad), emit_src=False)
    assert f"cell \\{cell} " in text
    names = {"ICE40": ("DIVR", "DIVF"), "ECP5": ("CLKI_DIV", "CLKFB_DIV")}[family.name]
    less = 1 if family is Family.ICE40 else 0
    for name, value in zip(names, (setting.reference_div, setting.feedback_div), strict=True):
        assert f"parameter \\{name} {value - less}\n" in text


def test_without_a_pll_there_is_a_wire() -> None:
    text = rtlil.convert(Pll(fastest(Family.ECP5, 25_000_000, 25), from_pad=False), emit_src=False)
    assert "EHXPLLL" not in text
