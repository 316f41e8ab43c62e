# SPDX-License-Identifier: Apache-2.0
"""Means with 95 % intervals, and paired differences between two models.

No installed library offers means with cluster-robust intervals that keep a width if all values are equal, so they are computed here.
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
    """A mean, the number n of values, and the 95 % interval (low, high) of the mean."""

    value: float
    n: int
    ci95: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """{"value", "n", "ci95": [low, high]}."""
        return {"value": self.value, "n": self.n, "ci95": list(self.ci95)}


@dataclass(frozen=True, slots=True)
class Values:
    """The values of one measure, from which its estimate and its differences are computed.

    The first part of each key is the name of an item, and clusters has the cluster of each item. A value is a share in [0, 1] or, with
    bounded=False, any number of 0 or more.
    """

    values: Mapping[tuple, float]
    clusters: Mapping[str, Hashable]
    bounded: bool = True

    def estimate(self) -> Estimate:
        """The mean of the values. ValueError if there are none."""
        return estimate(list(self.values.values()), [self.clusters[key[0]] for key in self.values], bounded=self.bounded)

    def difference(self, before: "Values") -> Estimate:
        """The mean of the differences from the values before, matched by key. ValueError names a key that only one of the two has."""
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
    """The mean of values in [0, 1] (bounded=False: of any numbers of 0 or more) with its 95 % interval, within the same bounds.

    clusters: for each value, the unit with which it was drawn (such as a pair that is judged in two orders); by default, all values are
    independent. The interval is normal, with the cluster-robust variance G / (G - 1) * sum over the G clusters of
    (sum of residuals)^2 / n^2 (Liang and Zeger 1986). If all clusters agree, it would have no width. Half its width is then the Wilson
    bound for an event that did not occur in G draws, z^2 / (G + z^2), which for a proportion of 0 or 1 gives the Wilson interval; for
    unbounded values, it is multiplied by the largest. ValueError if there are no values, a value is out of bounds, or the lengths differ.

    >>> [round(bound, 3) for bound in estimate([1, 1, 1, 1]).ci95]
    [0.51, 1.0]
    """
    return _estimate(values, clusters, low=0.0, high=1.0 if bounded else math.inf)


def paired_difference(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable] | None = None, *, bounded: bool = True
) -> Estimate:
    """The mean of after - before, matched by position, with its 95 % interval, as estimate() computes it.

    bounded: the values are in [0, 1] and the interval is within [-1, 1]. ValueError as in estimate().
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before and {len(after)} after cannot be paired")
    high = 1.0 if bounded else math.inf
    if any(not 0 <= value <= high for value in (*before, *after)):
        raise ValueError(f"a value is outside [0, {high:g}]")
    return _estimate([float(b) - float(a) for a, b in zip(before, after, strict=True)], clusters, low=-high, high=high)


def mcnemar(only_a: int, only_b: int) -> float:
    """The two-sided exact p-value of the hypothesis that a and b are equally likely to be the only one that is right.

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
