# SPDX-License-Identifier: Apache-2.0
"""How much the verdicts of a judge may count against votes, estimated without labels from how often its two orders agree.

A judge that is right with probability a, and by b more often if the right answer stands first, agrees with itself with probability
2 a^2 - 2 a + 1 - 2 b^2, and says "the first" with probability 1/2 + b. So the pairs that it has judged give a probability for each a from
1/2 to 1, which are equally likely before. A verdict counts ln(a / (1 - a)), with an a that depends on what is decided: the mean, to say
whether more verdicts are worth their tokens, and the lower end of the interval, so that a few pairs prove nothing, to overturn votes.
"""

import math
from collections.abc import Iterable
from itertools import accumulate

MAX_WEIGHT = 0.8
"""The highest weight: two agreeing verdicts outweigh up to five votes to one. Verdicts may also agree on what is wrong."""

TIE_BREAK = 0.001
"""The lowest weight, at which no verdicts overturn a lead in votes."""

Choices = tuple[str | None, str | None]
"""What was chosen of one pair in its two orders, in the shown frame."""

_ACCURACIES = [0.5 + step / 100 for step in range(50)]
_LOWER_END = 0.05


def weights_of(verdicts: Iterable[Choices]) -> tuple[float, float]:
    """The weight that these verdicts prove with 95 % certainty and the one to be expected, each from TIE_BREAK to MAX_WEIGHT.

    >>> asked = [], [("1", "2")] * 100, [("1", "1"), ("2", "2")] * 200
    >>> [tuple(round(weight, 2) for weight in weights_of(verdicts)) for verdicts in asked]
    [(0.08, 0.8), (0.8, 0.8), (0.0, 0.04)]
    """
    accuracies = _accuracies(verdicts)
    below = accumulate(probability for _, probability in accuracies)
    proven = next(accuracy for (accuracy, _), sum_below in zip(accuracies, below, strict=True) if sum_below > _LOWER_END)
    return _weight(proven), _weight(sum(accuracy * probability for accuracy, probability in accuracies))


def accuracy_of(weight: float) -> float:
    """How often a judge whose verdicts count so much is right."""
    return 1 / (1 + math.exp(-weight))


def _weight(accuracy: float) -> float:
    return min(MAX_WEIGHT, max(TIE_BREAK, math.log(accuracy / (1 - accuracy))))


def _accuracies(verdicts: Iterable[Choices]) -> list[tuple[float, float]]:
    """The accuracies that are possible, in ascending order, each with its probability."""
    pairs = list(verdicts)
    num_agreeing = sum({*pair} == {"1", "2"} for pair in pairs)
    said = [choice for pair in pairs for choice in pair if choice in ("1", "2")]
    bias = abs(said.count("1") / len(said) - 0.5) if said else 0.0
    # In the order that the judge prefers, a verdict is right with probability a + b, which is at most 1.
    possible = [accuracy for accuracy in _ACCURACIES if accuracy - 0.5 <= max(0.0, 0.5 - bias) + 1e-9]
    likelihoods = []
    for accuracy in possible:
        agreement = min(0.999, max(0.001, accuracy**2 + (1 - accuracy) ** 2 - 2 * bias**2))
        likelihoods.append(num_agreeing * math.log(agreement) + (len(pairs) - num_agreeing) * math.log(1 - agreement))
    # Relative to the highest one, because those of many pairs are too small for a float.
    relative = [math.exp(likelihood - max(likelihoods)) for likelihood in likelihoods]
    return [(accuracy, each / sum(relative)) for accuracy, each in zip(possible, relative, strict=True)]
