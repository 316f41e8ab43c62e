# SPDX-License-Identifier: Apache-2.0
"""Means with 95 % intervals, and paired differences between two models.

The intervals are by hand because no library that the stack has offers cluster-robust means with a bound for events that were never seen.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, the number of values it is the mean of, and its 95 % interval (low, high)."""

    value: float
    n: int
    ci95: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """{"value", "n", "ci95": [low, high]}."""
        return {"value": self.value, "n": self.n, "ci95": list(self.ci95)}

    @classmethod
    def from_json(cls, data: Any) -> "Estimate":
        """The estimate of such a dictionary. ValueError for anything else, also for numbers that are not finite."""
        if not isinstance(data, Mapping) or not {"value", "n", "ci95"} <= data.keys() or not isinstance(data["ci95"], list):
            raise ValueError(f'{data!r:.80} is not an estimate {{"value", "n", "ci95"}}')
        numbers = [data["value"], data["n"], *data["ci95"]]
        if len(numbers) != 4 or any(type(number) not in (int, float) or not math.isfinite(number) for number in numbers):
            raise ValueError(f"{data!r:.80}: value, n and the two bounds of ci95 must be finite numbers")
        return cls(data["value"], data["n"], (data["ci95"][0], data["ci95"][1]))


@dataclass(frozen=True, slots=True)
class Values:
    """The values of one measure by key, what an estimate or a difference is computed from.

    A key is a tuple that begins with the name of its item; clusters says which cluster each item was drawn with. A value is a share in
    [0, 1] or, with bounded=False, any number of 0 or more.
    """

    values: Mapping[tuple, float]
    clusters: Mapping[str, Hashable]
    bounded: bool = True

    def estimate(self) -> Estimate:
        """The mean of the values. ValueError if there are none."""
        return estimate(list(self.values.values()), [self.clusters[key[0]] for key in self.values], bounded=self.bounded)

    def difference(self, before: "Values") -> Estimate:
        """The mean of these values minus those before, key by key. ValueError names a key that only one of the two has."""
        if unmatched := self.values.keys() ^ before.values.keys():
            key = min(unmatched, key=str)
            raise ValueError(f"{', '.join(map(str, key))} is only in the {'second' if key in self.values else 'first'} run")
        keys = list(before.values)
        return paired_difference(
            [before.values[key] for key in keys],
            [self.values[key] for key in keys],
            [before.clusters[key[0]] for key in keys],
            bounded=self.bounded,
        )


def estimate(values: Sequence[float], clusters: Sequence[Hashable] | None = None, *, bounded: bool = True) -> Estimate:
    """Mean of values in [0, 1] (bounded=False: of any numbers of 0 or more) with its 95 % interval, within the same bounds.

    clusters names for each value the unit it was drawn with (the two orders of one pair); by default each value stands alone. The interval
    is normal with the cluster-robust variance G / (G - 1) * sum over the G clusters of (sum of residuals)^2 / n^2 (Liang and Zeger 1986).
    Where no cluster deviates it has no width, and the Wilson bound for an event never seen in G draws, z^2 / (G + z^2), takes its place:
    exactly the Wilson interval for a proportion of 0 or 1; of unbounded values, this share of the largest. ValueError: no values, a value
    outside the bounds, lengths that differ.

    >>> [round(bound, 3) for bound in estimate([1, 1, 1, 1]).ci95]
    [0.51, 1.0]
    """
    return _estimate(values, clusters, low=0.0, high=1.0 if bounded else math.inf)


def paired_difference(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable] | None = None, *, bounded: bool = True
) -> Estimate:
    """Mean of after - before, matched by position, with its 95 % interval (bounded: values in [0, 1], interval within [-1, 1])."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before and {len(after)} after cannot be paired")
    high = 1.0 if bounded else math.inf
    if any(not 0 <= value <= high for value in (*before, *after)):
        raise ValueError(f"a value is outside [0, {high:g}]")
    return _estimate([float(b) - float(a) for a, b in zip(before, after, strict=True)], clusters, low=-high, high=high)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that both are as likely to be the only one who is right.

    >>> mcnemar(1, 5)
    0.21875
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def _estimate(values: Sequence[float], clusters: Sequence[Hashable] | None, low: float, high: float) -> Estimate:
    n = len(values)
    if clusters is None:
        clusters = range(n)
    if n == 0:
        raise ValueError("no values: there is nothing to average")
    if len(clusters) != n:
        raise ValueError(f"{n} values with {len(clusters)} cluster names")
    if outside := [value for value in values if not low <= value <= high]:
        raise ValueError(f"{outside[0]!r} is outside [{low:g}, {high:g}]")
    mean = math.fsum(values) / n
    residuals: dict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster].append(value - mean)
    num_clusters = len(residuals)
    squares = math.fsum(math.fsum(group) ** 2 for group in residuals.values())
    half = _Z * math.sqrt(squares * num_clusters / max(num_clusters - 1, 1)) / n
    scale = high if math.isfinite(high) else max(map(abs, values))
    if half < 1e-9 * scale or half == 0:
        half = scale * _Z**2 / (num_clusters + _Z**2)
    return Estimate(mean, n, (max(low, mean - half), min(high, mean + half)))
