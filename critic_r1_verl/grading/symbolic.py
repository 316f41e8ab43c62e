# SPDX-License-Identifier: Apache-2.0
r"""What the own reader cannot tell, asked of math-verify: whether two expressions with sines and their kin are equal.

sympy, on which math-verify stands, takes minutes and much memory for some short texts, and its deadline needs signals, which no thread may
use. So only a form is asked for which both are small. It has nothing that grows: no equation, no decimal, no power of a power, no
factorial, no e. What it has is counted, on each side: _MAX_CHARS characters, _MAX_FUNCTIONS functions, _MAX_POWERS powers of at most 4,
numbers of two digits (angles in degrees of three); and _MAX_UNKNOWNS unknowns on both. Two such texts are compared symbolically only if
their values at one point are nearly the same. The form has finitely many members; tests/test_grading.py hunts for the slowest.
"""

import re
from functools import lru_cache
from threading import Lock
from typing import Any

from critic_r1_verl.grading.expression import CIRCULAR

_MAX_CHARS, _MAX_FUNCTIONS, _MAX_POWERS, _MAX_UNKNOWNS = 48, 4, 2, 2
_MAX_GAP = 1e-9
# sympy drops what two values differ by below this many digits; its default of 15 is within reach of the form.
_PRECISION_DIGITS = 60
_NAME = re.compile(r"(?:y|[fgh]\([a-z]\)) ?= ?")
_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "θ": "theta", "φ": "varphi", "ω": "omega"}
_CALL = re.compile(rf"\\?(?P<call>{'|'.join(CIRCULAR)})(?![A-Za-z])")
_TOKEN = re.compile(
    r"\s*(?:(?P<degrees>[0-9]{1,3})°|(?P<number>[0-9]{1,2})(?!\s*[0-9°.])|\^\{?(?P<power>[2-4])(?:(?<=\{.)\}|(?<!\{.)(?![0-9]))(?!\s*\^)"
    rf"|{_CALL.pattern}|(?P<unknown>[abckmnt-zABC](?![A-Za-z]))|(?P<greek>[{''.join(_GREEK)}])"
    r"|(?P<plain>π|\\(?:frac|sqrt)(?![A-Za-z])|[-+*/(){}]))"
)
# The parser of math-verify keeps what it has learnt in one place for all threads. Only answers of the form wait for it, and none for long.
_PARSER_LOCK = Lock()


def is_circular(text: str) -> bool:
    """Whether a plain text names a sine or one of its kin."""
    return _CALL.search(text) is not None


@lru_cache(maxsize=1024)
def equal(answer: str, truth: str) -> bool:
    r"""Whether two plain texts are of the form and have the same value; a name before them, as in f(x)=, is left out.

    >>> equal("\\sin 2x", "2\\sin x\\cos x"), equal("\\sin 30°", "\\frac{1}{2}"), equal("\\sin 30", "\\frac{1}{2}")
    (True, True, False)
    """
    names = {match[0] for text in (answer, truth) if (match := _NAME.match(text))}
    sides = [_latex(_NAME.sub("", text, count=1)) for text in (truth, answer)]
    unknowns = sorted({name for side in sides if side for name in side[1]})
    if None in sides or len(names) > 1 or len(unknowns) > _MAX_UNKNOWNS:
        return False
    import logging

    from math_verify import parse, verify

    # math_verify would warn in every process that there is no timeout.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    with _PARSER_LOCK:
        wanted, given = (parse(f"${side[0]}$", fallback_mode="no_fallback", parsing_timeout=None) for side in sides if side)
    return _are_near(wanted, given) and verify(wanted, given, numeric_precision=_PRECISION_DIGITS, timeout_seconds=None)


def _are_near(wanted: list[Any], given: list[Any]) -> bool:
    """Whether two parsed texts have nearly the same value at one point. Nearly all wrong answers end here, in milliseconds."""
    try:
        gap = wanted[0] - given[0]
        point = {symbol: 0.2 + 0.3 * number for number, symbol in enumerate(sorted(gap.free_symbols, key=str))}
        return abs(complex(gap.evalf(15, subs=point))) < _MAX_GAP
    except Exception:
        # Not both were read, or there is no value, as for tan 90°. What sympy raises is not documented.
        return False


def _latex(text: str) -> tuple[str, set[str]] | None:
    """The LaTeX of a plain text and its unknowns; None if it is not of the form."""
    if len(text) > _MAX_CHARS or text.count("^") > _MAX_POWERS or len(_CALL.findall(text)) > _MAX_FUNCTIONS:
        return None
    written, unknowns, place = [], set(), 0
    while place < len(text):
        if (match := _TOKEN.match(text, place)) is None:
            return None
        place = match.end()
        if match["degrees"]:
            # math-verify would drop the sign.
            written.append(f"(\\frac{{{int(match['degrees'])}\\pi}}{{180}})")
        elif match["unknown"] or match["greek"]:
            unknowns.add(match["unknown"] or match["greek"])
            written.append(match["unknown"] or f"\\{_GREEK[match['greek']]} ")
        elif match["call"]:
            written.append(f"\\{match['call']} ")
        else:
            written.append(f"^{{{match['power']}}}" if match["power"] else (match["number"] or match["plain"]).replace("π", "\\pi "))
    return "".join(written), unknowns
