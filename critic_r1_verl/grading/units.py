# SPDX-License-Identifier: Apache-2.0
"""Units at the end of a plain text, and what they are worth.

A unit is known by name, with its prefixes and powers, in products and quotients: cm, km/h, m/s^{2}, square metres, dollars. After a number
also a plural noun is a unit, such as apples. A percent sign is a unit of its own kind, because 25% may be meant as 25 or as 0.25.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

PERCENT = "%"


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of basic units, sorted, as ("m", 1), ("s", -1), and how many of it this unit is worth."""

    basis: tuple[tuple[str, int], ...]
    factor: Fraction

    @property
    def is_percent(self) -> bool:
        return self.basis == ((PERCENT, 1),)


_PREFIXES = {
    **{"k": ("kilo", 3), "c": ("centi", -2), "m": ("milli", -3), "d": ("deci", -1), "μ": ("micro", -6), "n": ("nano", -9)},
    **{"M": ("mega", 6), "G": ("giga", 9), "h": ("hecto", 2)},
}
# Each symbol takes every prefix, and each of its names the prefix in words and a plural.
_METRIC = {
    **{"m": "metre meter", "g": "gram gramme", "s": "second", "L": "litre liter", "N": "newton", "J": "joule", "W": "watt", "V": "volt"},
    **{"A": "ampere amp", "Ω": "ohm", "Pa": "pascal", "Hz": "hertz", "C": "coulomb", "F": "farad", "T": "tesla", "mol": "mole"},
    **{"K": "kelvin", "eV": "electronvolt", "cal": "calorie", "bit": "", "B": "byte"},
}
# For each basic unit what others are worth, with all their names.
_OTHERS: dict[str, dict[str, int | Fraction]] = {
    "s": {
        "sec secs": 1,
        "min mins minute minutes": 60,
        "h hr hrs hour hours": 3600,
        "day days": 86_400,
        "week weeks": 604_800,
    },
    "L": {"l": 1, "ml cc": Fraction(1, 1000)},
    "g": {"t ton tons tonne tonnes": 10**6},
    "month": {"month months": 1, "year years yr yrs": 12},
    "foot": {"foot feet ft": 1, "inch inches in": Fraction(1, 12), "yard yards yd": 3, "mile miles mi": 5280},
    "pound": {"pound pounds lb lbs £ GBP": 1, "ounce ounces oz": Fraction(1, 16)},
    "°": {"°": 1},
    "°C": {"°C celsius": 1},
    "°F": {"°F fahrenheit": 1},
    "rad": {"rad radian radians": 1},
    "$": {"$ dollar dollars USD": 1, "cent cents ¢": Fraction(1, 100)},
    "€": {"€ euro euros EUR": 1},
    "¥": {"¥ yen yuan RMB CNY": 1},
    "₹": {"₹ rupee rupees Rs": 1},
    "acre": {"acre": 1},
    "unit": {"unit units": 1},
    "person": {"person people persons": 1},
    "children": {"children": 1},
    "men": {"men": 1},
    "women": {"women": 1},
    PERCENT: {PERCENT: 1},
}


def _table() -> Iterator[tuple[str, tuple[str, Fraction]]]:
    """Every name of a basic unit or a multiple of it, with the basic unit and the factor."""
    for symbol, names in _METRIC.items():
        for short, (long, power) in {"": ("", 0), **_PREFIXES}.items():
            worth = symbol, Fraction(10) ** power
            yield short + symbol, worth
            yield from ((f"{long}{name}{plural}", worth) for name in names.split() for plural in ("", "s"))
    for base, multiples in _OTHERS.items():
        yield from ((name, (base, Fraction(factor))) for names, factor in multiples.items() for name in names.split())
    yield from ((f"° {scale}", (f"°{scale}", Fraction(1))) for scale in "CF")


_ATOMS = dict(_table())
_ALIASES = {
    "mph": "mile/h",
    "kph": "km/h",
    "kmh": "km/h",
    "ha": "hm^2",
    "hectare": "hm^2",
    "hectares": "hm^2",
    "kWh": "kW*h",
    "acres": "acre",
}
_ATOM = re.compile(r"\s*(° ?[CF](?![A-Za-z])|[A-Za-zμΩ]+|[°%$€£¥₹¢])")
_EXPONENT = re.compile(r"\s*\^\s*(?:\{\s*(-?[1-4])\s*\}|(-?[1-4])(?![0-9]))")
_JOINT = re.compile(r"\s*(/|\*|per(?![A-Za-z])|a(?= (?:day|week|month|year|hour)))\s*|\s+(?=[A-Za-zμΩ])")
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}
# What a length or an age is said to be.
_MEASURED = re.compile(r" (?:long|wide|tall|high|deep|old|away|apart|each|in total|per side)$")
# Plurals that are numbers, fractions or operations.
_NO_NOUN = re.compile(
    r".*(?:ths|thirds|halves)|quarters|tens|hundreds|thousands|millions|billions|dozens|scores|times|plus|minus|pairs|versus"
)
_NOUN = re.compile(r"[a-z]{3,}s")
_START = re.compile(r"(?<![A-Za-z\\])(?=[A-Za-zμΩ°%$€£¥₹¢])")
_FRACTION = re.compile(r"\\frac ?\{ ?([A-Za-z]+) ?\} ?\{ ?([A-Za-z]+(?: ?\^ ?\{?[1-4]\}?)?) ?\}\Z")
_BRACKETED = re.compile(r"\( ?([A-Za-zμΩ°][A-Za-zμΩ°^{}/*1-4 -]{1,30}?) ?\)\Z")
_NUMERIC = re.compile(r"[0-9π]|\\frac|\\sqrt")
_SIGN_BEFORE = re.compile(r"([-+]?)\s*(?:(?:US|CA|AU|HK)?(\$)|([€£¥₹])|Rs\.?(?![A-Za-z]))\s*(?=[0-9.\\({-])")
_MAX_CHARS = 48


def split(text: str, *, letters: bool = False) -> tuple[str, Unit | None]:
    """The text without the unit at its end or the money sign before it, and the unit.

    A single letter right after a digit, as in 5m, is a unit only if `letters` says so.
    """
    if match := _SIGN_BEFORE.match(text):
        sign = match[2] or match[3] or "₹"
        rest = text[match.end() :]
        rest, after = (rest, None) if _SIGN_BEFORE.match(rest) else split(rest)
        # $5 dollars, $5 million and -$5 are one amount.
        if after is None or after.basis[0][0] == _ATOMS[sign][0]:
            return match[1] + rest, Unit(((_ATOMS[sign][0], 1),), Fraction(1))
        return text, None
    for match in filter(None, (_FRACTION.search(text), _BRACKETED.search(text))):
        written = match[1] if match.re is _BRACKETED else f"{match[1]}/{match[2]}"
        if (unit := parse(written)) and _NUMERIC.search(text[: match.start()]):
            return text[: match.start()].rstrip(), unit
    first = max(1, len(text) - _MAX_CHARS)
    for match in _START.finditer(text, first):
        before, tail = text[: match.start()], text[match.start() :]
        if before.count("{") != before.count("}") or before.rstrip().endswith(("^", "_", "+", "-", "*", "/", "=", "\\")):
            continue
        if not _NUMERIC.search(before) and not (len(tail) > 1 and before.endswith(" ") and len(before) > 2):
            continue
        if len(tail.split("^")[0].strip()) == 1 and tail[0].isalpha() and not before.endswith(" ") and not letters:
            continue
        if unit := parse(tail):
            return before.rstrip(), unit
    return text, None


def parse(text: str) -> Unit | None:
    """The unit that a text spells, None if it does not."""
    text = _MEASURED.sub("", text.strip()).replace("sq. ", "sq ").replace("cu. ", "cu ")
    text = _ALIASES.get(text, text)
    if (words := text.split()) and all(_NOUN.fullmatch(word) or word in _ATOMS for word in words) and len(words) <= 2:
        noun = words[-1]
        if noun not in _ATOMS and not any(_NO_NOUN.fullmatch(word) for word in words):
            return Unit(((" ".join(words), 1),), Fraction(1))
    basis: Counter[str] = Counter()
    factor, place, sign, pending = Fraction(1), 0, 1, 1
    last = ""
    while match := _ATOM.match(text, place):
        place, name = match.end(), match[1]
        if name in ("square", "sq", "cubic", "cu"):
            pending = _POWERS[name]
            continue
        if name not in _ATOMS and len(name) > 1 and (name.isupper() or name.istitle()):
            name = name.lower()
        if name in ("squared", "cubed") and last:
            base, worth = _ATOMS[last]
            basis[base] += sign * (_POWERS[name] - 1)
            factor *= worth ** (sign * (_POWERS[name] - 1))
        elif name not in _ATOMS:
            return None
        else:
            power = pending
            if exponent := _EXPONENT.match(text, place):
                power, place = int(exponent[1] or exponent[2]), exponent.end()
            base, worth = _ATOMS[name]
            basis[base] += sign * power
            factor *= worth ** (sign * power)
            last, pending = name, 1
        if place == len(text):
            return Unit(tuple(sorted((base, power) for base, power in basis.items() if power)), factor)
        if text[place:].strip() in ("", "."):
            return parse(text[:place])
        if not (joint := _JOINT.match(text, place)):
            return None
        place = joint.end()
        sign = -1 if joint[1] in ("/", "per", "a") else 1 if joint[1] else sign
    return None
