"""Units of measure: "5 km" and "5 miles" are two answers, "5 km" and "5000 m" are one, and a bare "5" goes with most.

Whether "5" means "5 km" cannot be said of the two alone (it would also mean "5 miles", and then the two were equal), so
it is decided once for a whole vote, by heads. Where over half of the replies name a unit of measure, units count, and
a bare number is taken to be in the unit that most replies name. Where not, the question is taken to fix the unit, and
all are dropped, as names of things counted ("42 apples") and currencies always are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

_F = Fraction

# By what is measured: each unit's names, and how many of the first it is. No degrees: 68 °F are no multiple of 20 °C.
_TABLE: Mapping[str, Mapping[str, Fraction]] = {
    "length": {
        "m meter meters metre metres": _F(1),
        "km kilometer kilometers kilometre kilometres": _F(1000),
        "cm centimeter centimeters centimetre centimetres": _F(1, 100),
        "mm millimeter millimeters millimetre millimetres": _F(1, 1000),
        "mi mile miles": _F("1609.344"),
        "yd yard yards": _F("0.9144"),
        "ft foot feet": _F("0.3048"),
        "inch inches": _F("0.0254"),
    },
    "time": {
        "s sec secs second seconds": _F(1),
        "ms millisecond milliseconds": _F(1, 1000),
        "min mins minute minutes": _F(60),
        "h hr hrs hour hours": _F(3600),
        "day days": _F(86400),
        "week weeks": _F(604800),
    },
    "mass": {
        "g gram grams": _F(1),
        "mg milligram milligrams": _F(1, 1000),
        "kg kilogram kilograms": _F(1000),
        "lb lbs pound pounds": _F("453.59237"),
        "oz ounce ounces": _F("28.349523125"),
    },
    "volume": {
        "l liter liters litre litres": _F(1),
        "ml milliliter milliliters millilitre millilitres": _F(1, 1000),
        "gallon gallons": _F("3.785411784"),
    },
    "speed": {
        "m/s": _F(1),
        "km/h kmh kph": _F(5, 18),
        "mph": _F("0.44704"),
    },
    "area": {"m^2": _F(1), "km^2": _F(1_000_000), "cm^2": _F(1, 10_000)},
}


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """`size` in the first unit of what it `measures`."""

    measures: str
    size: Fraction


_UNITS: Mapping[str, Unit] = {
    name: Unit(measures, size)
    for measures, units in _TABLE.items()
    for names, size in units.items()
    for name in names.split()
}
_SPOKEN: Mapping[str, str] = {
    "meters per second": "m/s",
    "metres per second": "m/s",
    "kilometers per hour": "km/h",
    "kilometres per hour": "km/h",
    "miles per hour": "mph",
    "square meters": "m^2",
    "square metres": "m^2",
    "square kilometers": "km^2",
    "square kilometres": "km^2",
}


def unit_named(words: str) -> Unit | None:
    """The unit of measure that `words` (lower-case, what follows a number) name, and nothing else."""
    plain = " ".join(words.split()).strip(".,()")
    return _UNITS.get(_SPOKEN.get(plain, plain))


@dataclass(frozen=True, slots=True)
class Frame:
    """How the numbers of one vote are read. `bare` is the unit of those that name none; None: units are dropped.

    `lead`: with fewer heads outstanding, no further replies can change this.
    """

    bare: Unit | None
    lead: Fraction

    def read(self, value: Fraction, unit: Unit | None) -> tuple[str, Fraction]:
        """What is measured ("" where units are dropped), and how much of it."""
        if self.bare is None:
            return "", value
        meant = unit or self.bare
        return meant.measures, value * meant.size


def frame_of(units: Sequence[tuple[Unit | None, Fraction]]) -> Frame:
    """The frame of the replies that name these units, each with its heads."""
    heads = sum((head for _, head in units), Fraction(0))
    by_unit: dict[Unit, Fraction] = {}
    for unit, head in units:
        if unit is not None:
            by_unit[unit] = by_unit.get(unit, Fraction(0)) + head
    named = sum(by_unit.values(), Fraction(0))
    if 2 * named <= heads:
        return Frame(None, heads - 2 * named)
    ranked = sorted(by_unit, key=lambda unit: (-by_unit[unit], unit))
    lead = 2 * named - heads
    if named < heads:  # without a bare number it does not matter yet which unit one would have
        lead = min(lead, by_unit[ranked[0]] - (by_unit[ranked[1]] if len(ranked) > 1 else Fraction(0)))
    return Frame(ranked[0], lead)
