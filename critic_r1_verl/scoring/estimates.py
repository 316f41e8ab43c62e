# SPDX-License-Identifier: Apache-2.0
"""Judgements, answers and selections -> means with 95 % intervals, and paired differences between two models.

An estimate is {"value": mean, "n": number of values, "ci95": [low, high]}. The inputs are the lines of the run directory's jsonl files as
dictionaries; a line that is missing, doubled or incomplete is a ValueError that names it, never a smaller n.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

Estimate = dict[str, Any]
Lines = Sequence[Mapping[str, Any]]
Inputs = tuple[Lines, Lines, Lines]
"""The judgements, answers and selections of one model."""

_Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""

_Key = tuple[str, ...]
"""What a value belongs to: the pair_id or question_id, which is its cluster, then whatever tells values of one cluster apart."""


def estimate(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of values in [0, 1] with its 95 % interval, within [0, 1].

    clusters names for each value the unit it was drawn with (two orders of one pair); by default each value stands alone. The interval
    is normal with the cluster-robust variance G / (G - 1) * sum over the G clusters of (sum of residuals)^2 / n^2 (Liang and Zeger 1986).
    Where no cluster deviates it has no width, and the Wilson bound for an event never seen in G draws, z^2 / (G + z^2), takes its place:
    exactly the Wilson interval for a proportion of 0 or 1. ValueError: no values, a value outside [0, 1], lengths that differ.

    >>> [round(bound, 3) for bound in estimate([1, 1, 1, 1])["ci95"]]
    [0.51, 1.0]
    """
    return _estimate(values, clusters, low=0.0)


def paired_difference(before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of after - before, values in [0, 1] matched by position, with its 95 % interval within [-1, 1]; otherwise as estimate."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before and {len(after)} after cannot be paired")
    if any(not 0 <= value <= 1 for value in (*before, *after)):
        raise ValueError("a value is outside [0, 1]")
    return _estimate([float(b) - float(a) for a, b in zip(before, after, strict=True)], clusters, low=-1.0)


def summarise(judgements: Lines, answers: Lines, selections: Lines) -> dict[str, Estimate]:
    """The seven numbers of one model, each an estimate clustered by pair or question.

    critic_accuracy: judgements that are correct, over both orders (unparsed is wrong). position_consistency: pairs, once a repeat, whose
    two orders prefer the same response (unparsed is inconsistent). unparsed_rate: judgements without a choice. policy_accuracy: greedy
    answers that are correct; single_accuracy: sampled ones. majority_accuracy, self_critique_accuracy: selections of that method.
    """
    return {
        name: estimate(list(values.values()), [key[0] for key in values])
        for name, values in _values(judgements, answers, selections).items()
    }


def difference(base_inputs: Inputs, trained_inputs: Inputs) -> dict[str, Estimate]:
    """For each key of summarise the paired difference, trained - base, on the same pairs and questions.

    ValueError names a pair or question that only one of the two has.
    """
    base, trained = _values(*base_inputs), _values(*trained_inputs)
    differences = {}
    for name, before in base.items():
        after = trained[name]
        if unmatched := before.keys() ^ after.keys():
            key = min(unmatched)
            raise ValueError(f"{name}: {_show(key)} is only in the {'base' if key in before else 'trained'} model's lines")
        differences[name] = paired_difference(list(before.values()), list(after.values()), [key[0] for key in before])
    return differences


def _estimate(values: Sequence[float], clusters: Sequence[Hashable] | None, low: float) -> Estimate:
    """The estimate for values in [low, 1]."""
    n = len(values)
    if clusters is None:
        clusters = range(n)
    if n == 0:
        raise ValueError("no values: there is nothing to average")
    if len(clusters) != n:
        raise ValueError(f"{n} values with {len(clusters)} cluster names")
    if outside := [value for value in values if not low <= value <= 1]:
        raise ValueError(f"{outside[0]!r} is outside [{low:g}, 1]")
    mean = math.fsum(values) / n
    residuals: dict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster].append(value - mean)
    num_clusters = len(residuals)
    squares = math.fsum(math.fsum(group) ** 2 for group in residuals.values())
    half = _Z * math.sqrt(squares * num_clusters / max(num_clusters - 1, 1)) / n
    if half < 1e-9:
        half = _Z**2 / (num_clusters + _Z**2)
    return {"value": mean, "n": n, "ci95": [max(low, mean - half), min(1.0, mean + half)]}


def _values(judgements: Lines, answers: Lines, selections: Lines) -> dict[str, dict[_Key, float]]:
    """For each metric its values by key, sorted by key so that the order of the lines does not matter."""
    judged = _index("judgement", judgements, ("pair_id", "repeat", "order"))
    answered = _index("answer", answers, ("question_id", "kind", "sample"))
    chosen = _index("selection", selections, ("question_id", "method"))
    choices = {key: _choice(line) for key, line in judged.items()}
    answer_correct = {key: _correct("answer", line) for key, line in answered.items()}
    selection_correct = {key: _correct("selection", line) for key, line in chosen.items()}
    pairs, questions = {key[0] for key in judged}, {key[0] for key in (*answered, *chosen)}

    # Both orders are required of every pair, so that no position bias hides in what was left out.
    both_orders: set[_Key] = {(key[1], order) for key in judged for order in ("12", "21")}
    _check_complete("judgement", judged, pairs, both_orders)
    values = {
        "critic_accuracy": {key: _correct("judgement", line) for key, line in judged.items()},
        "position_consistency": {
            key[:2]: float((choices[key], choices[*key[:2], "21"]) in {("1", "2"), ("2", "1"), ("tie", "tie")})
            for key in judged
            if key[2] == "12"
        },
        "unparsed_rate": {key: float(choice is None) for key, choice in choices.items()},
        "policy_accuracy": {key: value for key, value in answer_correct.items() if key[1] == "greedy"},
        "single_accuracy": {key: value for key, value in answer_correct.items() if key[1] == "sample"},
        "majority_accuracy": {key: value for key, value in selection_correct.items() if key[1] == "majority"},
        "self_critique_accuracy": {key: value for key, value in selection_correct.items() if key[1] == "self_critique"},
    }
    for name, by_key in values.items():
        if not by_key:
            raise ValueError(f"{name}: there are no lines to compute it from")
        if name.endswith("_accuracy") and name != "critic_accuracy":
            _check_complete(name, by_key, questions, {key[1:] for key in by_key})
    return values


def _check_complete(what: str, by_key: Mapping[_Key, Any], clusters: set[str], kinds: set[_Key]) -> None:
    """Every cluster has every kind of value, and no other."""
    expected = {(cluster, *kind) for cluster in clusters for kind in kinds}
    if missing := expected - by_key.keys():
        raise ValueError(f"{what} {_show(min(missing))} is missing")
    if unknown := by_key.keys() - expected:
        raise ValueError(f"{what} {_show(min(unknown))} is none of those expected")


def _index(what: str, lines: Lines, names: tuple[str, ...]) -> dict[_Key, Mapping[str, Any]]:
    indexed: dict[_Key, Mapping[str, Any]] = {}
    for line in lines:
        key = tuple(str(_field(what, line, name)) for name in names)
        if key in indexed:
            raise ValueError(f"{what} {_show(key)} occurs twice")
        indexed[key] = line
    return dict(sorted(indexed.items()))


def _field(what: str, line: Mapping[str, Any], name: str) -> Any:
    if name not in line:
        raise ValueError(f"{what} {dict(line)!r:.200} has no {name!r}")
    return line[name]


def _choice(line: Mapping[str, Any]) -> str | None:
    choice = _field("judgement", line, "choice")
    if choice not in ("1", "2", "tie", None):
        raise ValueError(f"judgement {dict(line)!r:.200}: the choice is none of '1', '2', 'tie', None")
    if choice is None and _correct("judgement", line):
        raise ValueError(f"judgement {dict(line)!r:.200}: correct although it has no choice")
    return choice


def _correct(what: str, line: Mapping[str, Any]) -> float:
    value = _field(what, line, "correct")
    if not isinstance(value, bool | int | float):
        raise ValueError(f"{what} {dict(line)!r:.200}: correct is neither a truth value nor a number")
    return float(value)


def _show(key: _Key) -> str:
    return f"({', '.join(key)})"
