# SPDX-License-Identifier: Apache-2.0
r"""The value of a mathematical expression in plain notation, within fixed bounds of time and memory.

Rational numbers are exact. Everything else (roots, powers, logarithms, unknowns) is computed with many digits, the unknowns at a few
points that nobody would choose, so that two expressions have the same values only if they are equal. Nothing is expanded or simplified:
the work is one operation of bounded cost (arithmetic.py) for each character at each point.
"""

import re
from decimal import Decimal, DecimalException, localcontext
from fractions import Fraction

from critic_r1_verl.grading.arithmetic import (
    CONTEXT,
    NUM_POINTS,
    Number,
    Unreadable,
    Values,
    add,
    apply,
    binomial,
    constant,
    divide,
    factorial,
    literal,
    multiply,
    power,
    repeating,
    root,
)

_MAX_CHARS, _MAX_DEPTH = 300, 40
# The ranges of an unknown: some expressions are defined for small, for large or for negative values only.
_RANGES = ((0, 1), (1, 10), (-5, 0), (10, 100))

_NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4}(?![0-9A-Za-z.]))?")
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|dot|bar)\s*\{?([0-9]+)\}?")
_MIXED = re.compile(
    r"([0-9]+)\s*\\frac\s*(?:\{\s*([0-9]{1,9})\s*\}|([0-9]))\s*(?:\{\s*([0-9]{1,9})\s*\}|([0-9]))"
    r"|([0-9]+) ([0-9]{1,9})/([0-9]{1,9})(?![0-9.])"
)
_LETTERS = re.compile(r"[A-Za-z]+")
_SUBSCRIPT = re.compile(r"\s*_\s*(?:\{([^{}]*)\}|([A-Za-z0-9]))")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
CIRCULAR = ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan")
"""Functions that are equal only if their arguments are, as far as this module knows."""
_FUNCTIONS = {*CIRCULAR, *("sinh", "cosh", "tanh", "ln", "log", "lg", "exp", "max", "min", "gcd", "lcm")}
_ACCENTS = {"vec", "overline", "overrightarrow", "widehat", "hat", "bar", "tilde", "dot", "mathbb", "mathcal", "underset", "overset"}
# Short words that are no product of unknowns.
_WORDS = re.compile(
    "an|am|and|are|as|at|be|but|by|do|for|go|he|if|in|is|it|me|my|no|nor|not|of|off|on|or|so|the|to|too|up|us|we|yes", re.IGNORECASE
)
_IS_MATHS = re.compile(r"[0-9+*/^√π=()]|\\frac|\\sqrt")
_CLOSING = {"(": ")", "[": "]", "{": "}", "⦃": "⦄"}


def values(text: str) -> tuple[Values, ...]:
    """The values of an expression: one, or two if it has a ± sign. Unreadable if there are none."""
    if len(text) > _MAX_CHARS:
        raise Unreadable
    readings = []
    for sign in (1, -1) if "±" in text or "∓" in text else (1,):
        found: list[Number | None] = []
        with localcontext(CONTEXT):
            for point in range(NUM_POINTS):
                reader = _Reader(text, point, sign)
                found.append(reader.result())
                if not reader.has_unknowns:
                    break
        if all(value is None for value in found):
            raise Unreadable
        readings.append(tuple(found))
    return tuple(readings)


class _Reader:
    """Reads and evaluates one text at one point, by recursive descent; has_unknowns is set on the way."""

    def __init__(self, text: str, point: int, sign: int) -> None:
        self.text, self.point, self.sign = text, point, sign
        self.place = self.depth = 0
        self.has_unknowns = False
        self.is_maths = _IS_MATHS.search(text) is not None

    def result(self) -> Number | None:
        """The value; None if it is not defined at this point, as 1/0 or the root of a negative number."""
        try:
            value = self._sum()
            if self._peek():
                raise Unreadable
            return value
        except (ZeroDivisionError, DecimalException):
            # Whether the text has unknowns may not be known yet, and the other points cost little.
            self.has_unknowns = True
            return None

    def _peek(self) -> str:
        while self.text.startswith(" ", self.place):
            self.place += 1
        return self.text[self.place : self.place + 1]

    def _take(self, chars: str) -> str:
        """The next character if it is one of these, else the empty string."""
        char = self._peek()
        if char and char in chars:
            self.place += 1
            return char
        return ""

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self._peek()
        if match := pattern.match(self.text, self.place):
            self.place = match.end()
        return match

    def _sum(self) -> Number:
        total = self._product()
        while operator := self._take("+-±∓"):
            total = add(total, multiply(self._sign(operator), self._product()))
        return total

    def _sign(self, operator: str) -> Fraction:
        return Fraction({"+": 1, "-": -1, "±": self.sign, "∓": -self.sign}[operator])

    def _product(self) -> Number:
        total = self._signed()
        while True:
            if self._take("*"):
                total = multiply(total, self._signed())
            elif self._take("/"):
                total = divide(total, self._signed())
            elif (char := self._peek()) and char not in "+-±∓)]}⦄|,;:=<>≤≥≠≈∈∪'\"!.?&\n":
                if char in "0123456789":
                    # Two numbers side by side are no product.
                    raise Unreadable
                total = multiply(total, self._power())
            else:
                return total

    def _signed(self) -> Number:
        signs = Fraction(1)
        while operator := self._take("+-±∓"):
            signs *= self._sign(operator)
        return multiply(signs, self._power())

    def _power(self) -> Number:
        base = self._primary()
        while True:
            if self._take("!"):
                base = factorial(base)
            elif self._take("°"):
                continue
            elif self._take("^"):
                return power(base, self._argument())
            else:
                return base

    def _argument(self) -> Number:
        """An exponent, or the argument of a root: what stands in brackets, or one number or name with its sign."""
        if operator := self._take("+-"):
            return multiply(self._sign(operator), self._primary())
        return self._primary()

    def _primary(self) -> Number:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unreadable
        value = self._atom()
        self.depth -= 1
        return value

    def _atom(self) -> Number:
        if match := self._match(_REPEATING):
            return repeating(*match.groups())
        if self._peek() in "0123456789" and (match := _MIXED.match(self.text, self.place)):
            whole, top, bottom = match[1] or match[6], match[2] or match[3] or match[7], match[4] or match[5] or match[8]
            if int(top) < int(bottom):
                self.place = match.end()
                return add(literal(whole), divide(literal(top), literal(bottom)))
            if match[6]:
                raise Unreadable
        if match := self._match(_NUMBER):
            return literal(match[0])
        if opening := self._take("([{"):
            return self._enclosed(_CLOSING[opening])
        if self._take("|"):
            value = self._enclosed("|")
            return -value if value < 0 else value
        if match := self._match(_COMMAND):
            return self._command(match[1])
        if match := self._match(_LETTERS):
            return self._letters(match[0])
        char = self._peek()
        if char.isalpha() or char == "∞":
            self.place += 1
            return constant(char) if char in "π∞" else self._unknown(char)
        raise Unreadable

    def _enclosed(self, closing: str) -> Number:
        value = self._sum()
        if not self._take(closing):
            raise Unreadable
        return value

    def _command(self, name: str) -> Number:
        if name == "frac":
            top, bottom = self._digit_or_primary(), self._digit_or_primary()
            return divide(top, bottom)
        if name == "sqrt":
            degree = self._enclosed("]") if self._take("[") else Fraction(2)
            return root(self._primary(), degree)
        if name == "binom":
            return binomial(self._digit_or_primary(), self._digit_or_primary())
        if name in _FUNCTIONS:
            return self._function(name)
        if name in _ACCENTS and (match := self._match(re.compile(r"\{([^{}]*)\}|([A-Za-z])"))):
            return self._unknown(f"\\{name} {(match[1] or match[2]).replace(' ', '')}")
        raise Unreadable

    def _digit_or_primary(self) -> Number:
        """LaTeX reads frac12 as one half."""
        if match := self._match(re.compile("[0-9]")):
            return Fraction(int(match[0]))
        return self._primary()

    def _letters(self, run: str) -> Number:
        if run in _FUNCTIONS:
            return self._function(run)
        start = self.place - len(run)
        if len(run) > 1:
            if not self.is_maths or _WORDS.fullmatch(run) or len(run) > (4 if run.isupper() else 3):
                raise Unreadable
            self.place = start + 1
        if run[0] == "e":
            return Decimal(1).exp()
        return self._unknown(run[0])

    def _unknown(self, name: str) -> Number:
        self.has_unknowns = True
        if match := self._match(_SUBSCRIPT):
            name += "_" + (match[1] or match[2] or "").replace(" ", "")
        while self._take("'"):
            name += "'"
        low, high = _RANGES[self.point]
        return low + (high - low) * constant(f"{name} {self.point}")

    def _function(self, name: str) -> Number:
        base = self._match(_SUBSCRIPT)
        exponent = self._argument() if self._take("^") else None
        # The sine of 2x, but the sine of (2) times x.
        in_brackets = self._peek() in ("(", "{", "[")
        argument = self._power()
        while not in_brackets and (char := self._peek()) and (char.isalpha() or char == "\\") and not self._at_function():
            argument = multiply(argument, self._power())
        label = name + ((base[1] or base[2]) if base else "")
        value = apply(label, argument)
        return value if exponent is None else power(value, exponent)

    def _at_function(self) -> bool:
        match = re.compile(r"\\?([A-Za-z]+)").match(self.text, self.place)
        return match is not None and match[1] in _FUNCTIONS
