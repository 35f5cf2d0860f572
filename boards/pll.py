"""Clocks that a chip's PLL makes of a board's: all of them, exactly, and the circuit that does."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from amaranth.hdl import Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.boards.targets import Family
from nomul.compiler.errors import PlanError

__all__ = ["Pll", "Setting", "fastest", "settings"]

_MHZ = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """What the PLL of a family can do; frequencies in MHz, both ends included."""

    reference: tuple[int, int]
    phase: tuple[Fraction, int]
    vco: tuple[int, int]
    output: tuple[int, int]
    reference_divs: range
    feedback_divs: range
    output_divs: tuple[int, ...]
    divided_feedback: bool  # whether the feedback comes from behind the output's divider


# Lattice FPGA-TN-02052 (iCE40, feedback "simple") and FPGA-TN-02200 (ECP5).
_LIMITS = {
    Family.ICE40: _Limits(reference=(10, 133), phase=(Fraction(10), 133), vco=(533, 1066),
                          output=(16, 275), reference_divs=range(1, 17),
                          feedback_divs=range(1, 129), output_divs=(2, 4, 8, 16, 32, 64),
                          divided_feedback=False),
    Family.ECP5: _Limits(reference=(8, 400), phase=(Fraction(25, 8), 400), vco=(400, 800),
                         output=(10, 400), reference_divs=range(1, 129),
                         feedback_divs=range(1, 81), output_divs=tuple(range(1, 129)),
                         divided_feedback=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A clock, and the dividers that give it.

    Attributes
    ----------
    family : Family
        Whose PLL it is.
    reference_hz : int
        The board's clock.
    frequency : Fraction
        The clock that comes out, in Hz, exactly.
    reference_div, feedback_div, output_div : int
        Dividers of the reference, of the feedback and of the oscillator; all 1 where the board's
        clock is taken as it is.
    uses_pll : bool
        Whether there is a PLL at all.
    """

    family: Family
    reference_hz: int
    frequency: Fraction
    reference_div: int = 1
    feedback_div: int = 1
    output_div: int = 1
    uses_pll: bool = True

    @property
    def mhz(self) -> float:
        """The clock in MHz."""
        return float(self.frequency / _MHZ)

    @property
    def phase_hz(self) -> Fraction:
        """Frequency at the phase detector, in Hz."""
        return Fraction(self.reference_hz, self.reference_div)

    @property
    def vco_hz(self) -> Fraction:
        """Frequency of the oscillator, in Hz."""
        return self.frequency * self.output_div


@cache
def settings(family: Family, reference_hz: int) -> tuple[Setting, ...]:
    """Every clock to be had from a reference, the slowest first; that of the board is one.

    Of several ways to a clock the one whose phase detector runs fastest is taken, and of these the
    one whose oscillator is nearest to the middle of its range.
    """
    direct = Setting(family=family, reference_hz=reference_hz, frequency=Fraction(reference_hz),
                     uses_pll=False)
    limits = _LIMITS[family]
    middle = sum(limits.vco) * _MHZ // 2
    best = {direct.frequency: direct}
    for found in _search(family, reference_hz):
        other = best.get(found.frequency)
        if other is None or (other.uses_pll
                             and (-found.phase_hz, abs(found.vco_hz - middle))
                             < (-other.phase_hz, abs(other.vco_hz - middle))):
            best[found.frequency] = found
    return tuple(best[frequency] for frequency in sorted(best))


def fastest(family: Family, reference_hz: int, at_most_mhz: float) -> Setting:
    """The fastest clock that is not above ``at_most_mhz``.

    Raises
    ------
    PlanError
        There is none.
    """
    clocks = settings(family, reference_hz)
    found = [one for one in clocks if one.frequency <= Fraction(at_most_mhz) * _MHZ]
    if not found:
        raise PlanError(f"clock must be at least {clocks[0].mhz:g} MHz, the slowest that "
                        f"{reference_hz / _MHZ:g} MHz on the board can become, not "
                        f"{at_most_mhz:g} MHz; ask for a faster one or for fewer lanes")
    return found[-1]


def _search(family: Family, reference_hz: int) -> Iterator[Setting]:
    limits = _LIMITS[family]
    if not _within(Fraction(reference_hz), limits.reference):
        return
    for reference_div in limits.reference_divs:
        phase = Fraction(reference_hz, reference_div)
        if not _within(phase, limits.phase):
            continue
        for feedback_div in limits.feedback_divs:
            for output_div in limits.output_divs:
                product = phase * feedback_div
                vco = product * output_div if limits.divided_feedback else product
                output = vco / output_div
                if _within(vco, limits.vco) and _within(output, limits.output):
                    yield Setting(family=family, reference_hz=reference_hz, frequency=output,
                                  reference_div=reference_div, feedback_div=feedback_div,
                                  output_div=output_div)


def _within(hertz: Fraction, limits: tuple[int | Fraction, int]) -> bool:
    return limits[0] * _MHZ <= hertz <= limits[1] * _MHZ


class Pll(wiring.Component):
    """The PLL of a chip, set as told; or a wire.

    Parameters
    ----------
    setting : Setting
        What it makes of the reference.
    from_pad : bool
        Whether an iCE40's PLL takes the reference straight from its own pin, which can then feed
        nothing else; where a board has its clock there, it must.

    Members
    -------
    reference : In(1)
        The board's clock.
    clk : Out(1)
        The clock asked for.
    locked : Out(1)
        Whether it is stable; not synchronous to it.
    """

    reference: Signal
    clk: Signal
    locked: Signal

    def __init__(self, setting: Setting, *, from_pad: bool) -> None:
        self.setting = setting
        self.from_pad = from_pad
        super().__init__({"reference": In(1), "clk": Out(1), "locked": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if not self.setting.uses_pll:
            m.d.comb += [self.clk.eq(self.reference), self.locked.eq(1)]
            return m
        match self.setting.family:
            case Family.ICE40:
                m.submodules.pll = self._ice40()
            case Family.ECP5:
                m.submodules.pll = self._ecp5()
        return m

    def _ice40(self) -> Instance:
        s = self.setting
        # The loop's filter, by the frequency at the phase detector.
        bounds = (17, 26, 44, 66, 101)
        kind, pin = (("SB_PLL40_PAD", "i_PACKAGEPIN") if self.from_pad
                     else ("SB_PLL40_CORE", "i_REFERENCECLK"))
        return Instance(
            kind, p_FEEDBACK_PATH="SIMPLE", p_DIVR=s.reference_div - 1, p_DIVF=s.feedback_div - 1,
            p_DIVQ=s.output_div.bit_length() - 1,
            p_FILTER_RANGE=1 + sum(s.phase_hz >= bound * _MHZ for bound in bounds),
            i_RESETB=1, i_BYPASS=0, o_PLLOUTGLOBAL=self.clk, o_LOCK=self.locked,
            **{pin: self.reference})

    def _ecp5(self) -> Instance:
        s = self.setting
        return Instance(
            "EHXPLLL", a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2", p_CLKI_DIV=s.reference_div, p_CLKFB_DIV=s.feedback_div,
            p_CLKOP_DIV=s.output_div, p_CLKOP_ENABLE="ENABLED",
            # Half a period, so that the edges of reference and output coincide.
            p_CLKOP_CPHASE=s.output_div // 2, p_CLKOP_FPHASE=0, p_FEEDBK_PATH="CLKOP",
            p_OUTDIVIDER_MUXA="DIVA", p_PLLRST_ENA="DISABLED", p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED", p_INTFB_WAKE="DISABLED",
            i_CLKI=self.reference, i_CLKFB=self.clk, i_RST=0, i_STDBY=0, i_PHASESEL0=0,
            i_PHASESEL1=0, i_PHASEDIR=1, i_PHASESTEP=1, i_PHASELOADREG=1, i_PLLWAKESYNC=0,
            i_ENCLKOP=0, o_CLKOP=self.clk, o_LOCK=self.locked)
