# SPDX-License-Identifier: Apache-2.0
"""How much the verdicts of a judge may count against votes, estimated without labels from how often its two orders agree.

A judge that is right with probability a, and by b more often if the right answer stands first, agrees with itself with probability
2 a^2 - 2 a + 1 - 2 b^2, and says "the first" with probability 1/2 + b. From the lower end of the interval of the agreement, so that a few
pairs prove nothing, follows a; two agreeing verdicts then count ln(a / (1 - a)) each. A judge without skill only breaks ties of votes.
"""

import math
from collections.abc import Iterable

MAX_WEIGHT = 0.8
"""The highest weight: two agreeing verdicts outweigh up to five votes to one. Verdicts may also agree on what is wrong."""

TIE_BREAK = 0.001
"""The lowest weight, at which no verdicts overturn a lead in votes."""

_Z = 1.6449
"""The normal quantile of a one-sided 95 % interval."""


def weight_of(verdicts: Iterable[tuple[str | None, str | None]]) -> float:
    """The weight, from TIE_BREAK to MAX_WEIGHT. verdicts: of each pair the choices in its two orders, in the shown frame.

    >>> weight_of([("1", "2")] * 100), weight_of([("1", "1"), ("2", "2"), ("1", "2"), ("2", "1")] * 25), weight_of([("1", "1")] * 100)
    (0.8, 0.001, 0.001)
    """
    pairs = list(verdicts)
    if not pairs:
        return TIE_BREAK
    num_agreeing = sum({*pair} == {"1", "2"} for pair in pairs)
    said = [choice for pair in pairs for choice in pair if choice in ("1", "2")]
    bias = said.count("1") / len(said) - 0.5 if said else 0.0
    agreement = num_agreeing / len(pairs) - _Z * math.sqrt(0.25 / len(pairs))
    accuracy = (1 + math.sqrt(max(0.0, 2 * agreement - 1 + 4 * bias**2))) / 2
    return min(MAX_WEIGHT, max(TIE_BREAK, math.log(accuracy / (1 - accuracy)))) if accuracy < 1 else MAX_WEIGHT
