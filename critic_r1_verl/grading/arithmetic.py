# SPDX-License-Identifier: Apache-2.0
"""Arithmetic within bounds: exact for rational numbers, with _DIGITS digits for all others.

Every operation takes a bounded time: no exact number has more than _MAX_BITS bits, no other one an exponent of more than six digits.
Unreadable is raised where an exact number would be longer, and DecimalException or ZeroDivisionError where there is no value.
"""

import hashlib
import math
from collections.abc import Callable
from decimal import Context, Decimal, DecimalException, DivisionByZero, InvalidOperation, Overflow, Underflow, localcontext
from fractions import Fraction

Number = Fraction | Decimal
Values = tuple[Number | None, ...]
"""The value at each point, None where it is not defined; a single value if there are no unknowns."""

NUM_POINTS = 4

_DIGITS = 100
CONTEXT = Context(prec=_DIGITS, Emax=10**5, Emin=-(10**5), traps=[DivisionByZero, InvalidOperation, Overflow, Underflow])
_TOLERANCE = Decimal(10) ** -75
_MAX_BITS = 8_192
# An exact number beside a root or an unknown may not be longer, so that the tolerance cannot hide a difference.
_MAX_MIXED_BITS = 128
_MAX_EXPONENT, _MAX_FACTORIAL, _MAX_ROOT = 4_096, 500, 64


class Unreadable(Exception):
    """The text is no expression that can be evaluated within the bounds."""


def same(one: Values, other: Values) -> bool:
    """Whether two expressions have the same value wherever they are defined, and are defined at the same points."""
    if len(one) != len(other):
        # An unknown that cancels out, as in x-x+5.
        one, other = (found * (NUM_POINTS if len(found) == 1 else 1) for found in (one, other))
    return all(map(_close, one, other))


def scaled(found: Values, factor: Fraction) -> Values:
    """The values times a factor."""
    with localcontext(CONTEXT):
        return tuple(None if value is None else multiply(value, factor) for value in found)


def difference(one: Values, other: Values) -> Values:
    """The values of one minus those of the other; both have the same points, or one of them no unknowns."""
    if len(one) != len(other):
        one, other = (found * (NUM_POINTS if len(found) == 1 else 1) for found in (one, other))
    with localcontext(CONTEXT):
        return tuple(None if a is None or b is None else add(a, -b) for a, b in zip(one, other, strict=True))


def proportional(one: Values, other: Values) -> bool:
    """Whether one is a constant, which is not zero, times the other: two equations with these differences of their sides are the same."""
    with localcontext(CONTEXT):
        ratios = []
        for a, b in zip(one, other, strict=False):
            if (a is None) != (b is None):
                return False
            if a is None or b is None:
                continue
            if a == 0 or b == 0:
                return False
            ratios.append(divide(a, b))
    return len(one) == len(other) and len(ratios) > 1 and all(_close(ratio, ratios[0]) for ratio in ratios)


def _close(a: Number | None, b: Number | None) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    with localcontext(CONTEXT):
        try:
            a, b = decimal(a), decimal(b)
            return abs(a - b) <= _TOLERANCE * max(abs(a), abs(b))
        except (Unreadable, DecimalException):
            return False


def literal(digits: str) -> Fraction:
    if len(digits) > 300:
        raise Unreadable
    return _bounded(Fraction(digits))


def repeating(whole: str, fixed: str, repeated: str) -> Fraction:
    if len(whole) + len(fixed) + len(repeated) > 100:
        raise Unreadable
    scale, period = 10 ** len(fixed), 10 ** len(repeated) - 1
    return Fraction(int(whole or "0")) + Fraction(int(fixed or "0"), scale) + Fraction(int(repeated), scale * period)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS:
        raise Unreadable
    return value


def decimal(value: Number) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_MIXED_BITS:
        raise Unreadable
    return Decimal(value.numerator) / Decimal(value.denominator)


def _combine(a: Number, b: Number, operation: Callable[..., Number]) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        value = operation(a, b)
        return _bounded(value) if isinstance(value, Fraction) else value
    return operation(decimal(a), decimal(b))


def add(a: Number, b: Number) -> Number:
    return _combine(a, b, lambda a, b: a + b)


def multiply(a: Number, b: Number) -> Number:
    return _combine(a, b, lambda a, b: a * b)


def divide(a: Number, b: Number) -> Number:
    return _combine(a, b, lambda a, b: a / b)


def power(base: Number, exponent: Number) -> Number:
    if isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            times = exponent.numerator
            if abs(times) > _MAX_EXPONENT:
                raise Unreadable
            if isinstance(base, Decimal):
                return Decimal(base**times)
            if (base.numerator.bit_length() + base.denominator.bit_length()) * abs(times) > _MAX_BITS:
                raise Unreadable
            return _bounded(Fraction(base) ** times)
        if exponent.denominator <= _MAX_ROOT:
            return power(root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
    return decimal(base) ** decimal(exponent)


def root(value: Number, degree: Number) -> Number:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 2 <= degree <= _MAX_ROOT:
        return decimal(value) ** (1 / decimal(degree))
    if value < 0 and degree % 2:
        return -root(-value, degree)
    if isinstance(value, Fraction) and value >= 0:
        exact = [_exact_root(part, degree.numerator) for part in (value.numerator, value.denominator)]
        if exact[0] is not None and exact[1] is not None:
            return Fraction(exact[0], exact[1])
    return decimal(value).sqrt() if degree == 2 else decimal(value) ** (1 / decimal(degree))


def _exact_root(number: int, degree: int) -> int | None:
    """The root of an integer if it is an integer."""
    if degree == 2:
        root = math.isqrt(number)
    elif number.bit_length() > _MAX_MIXED_BITS:
        return None
    else:
        root = round(Decimal(number) ** (1 / Decimal(degree)))
    return root if root**degree == number else None


def factorial(value: Number) -> Number:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= _MAX_FACTORIAL:
        raise Unreadable
    return _bounded(Fraction(math.factorial(value.numerator)))


def binomial(number: Number, taken: Number) -> Number:
    """How many choices of `taken` things there are among `number`."""
    if not all(isinstance(value, Fraction) and value.denominator == 1 and 0 <= value <= _MAX_FACTORIAL for value in (number, taken)):
        raise Unreadable
    return Fraction(math.comb(int(number), int(taken)))


def constant(name: str) -> Decimal:
    """A number between 0 and 1 that belongs to a name: the value of an unknown, or of a constant of which only the identity counts."""
    digits = int.from_bytes(hashlib.sha512(name.encode("utf-8", "replace")).digest(), "big")
    return Decimal(digits) / Decimal(2**512)


def apply(label: str, argument: Number) -> Number:
    """Logarithms and exp are computed. Any other function is one that has nothing in common with the rest, so its argument decides."""
    if label == "exp":
        return power(Decimal(1).exp(), argument)
    if label == "ln":
        return decimal(argument).ln()
    if label == "lg" or (label.startswith("log") and label != "log"):
        base = "10" if label == "lg" else label.removeprefix("log")
        if base.isascii() and base.isdigit():
            return _logarithm(argument, literal(base))
    number = decimal(argument)
    return constant(label) + number * (constant(f"{label} 1") + number * number)


def _logarithm(argument: Number, base: Fraction) -> Number:
    value = decimal(argument).ln() / decimal(base).ln()
    whole = Fraction(round(value)) if abs(value) < _MAX_BITS else Fraction(0)
    return whole if abs(value - decimal(whole)) < _TOLERANCE else value
