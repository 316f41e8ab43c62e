# SPDX-License-Identifier: Apache-2.0
"""What the official scores of several benchmarks have in common: records become cases, their verdicts items, and items a score.

Most official protocols show each pair in one order per trial, drawn at random. If a repeat has the verdicts of both orders, the score is
the expectation over that draw; if it has one, that verdict counts. All scores are shares in [0, 1], None if nothing is left to count.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import PairRecord

Score = dict[str, Any]
Parse = Callable[[str], str | None]
Trials = list[dict[str, str | None]]
"""The verdicts on one pair: for each repeat, the verdict of each order in the frame of the record."""

OTHER = {"1": "2", "2": "1"}

# No id holds a tab.
_REPEATED = "\t#"


def to_record(order: str, choice: str | None) -> str | None:
    """Like records.to_record, but for verdicts of a benchmark's format, which may be other than "1", "2" or "tie"."""
    return OTHER.get(choice, choice) if order == "21" and choice is not None else choice


class Item(NamedTuple):
    """One item of a score: `right` of `counted` are right. Items with the same cluster are not independent of each other."""

    key: str
    group: str
    cluster: str
    right: float
    counted: float = 1.0


class Case(NamedTuple):
    """What scores need of a record; lengths are those of response 1 and response 2, in characters."""

    key: str
    pair_id: str
    group: str
    cluster: str
    preferred: str
    lengths: tuple[int, int]

    def item(self, right: float, counted: float = 1.0) -> Item:
        """The item of this case in a score."""
        return Item(self.key, self.group, self.cluster, right, counted)


class Published(NamedTuple):
    """Per-item results that others published: the items, their official score, and notes for the reader."""

    items: list[Item]
    score: Score
    notes: Sequence[str] = ()


def cases(records: Iterable[PairRecord], group: Callable[[PairRecord], str]) -> list[Case]:
    """One case for each record. Its key is the pair_id; if a pair occurs again, a number is appended.

    ValueError if a pair occurs again with its responses exchanged.
    """
    ascending: dict[str, bool] = {}
    found = []
    for record in records:
        pair_id = record.pair_id
        if ascending.setdefault(pair_id, record.response_1 < record.response_2) != (record.response_1 < record.response_2):
            raise ValueError(f"pair {pair_id} occurs twice with its responses exchanged, so its orders are ambiguous; load it again")
        lengths = len(record.response_1), len(record.response_2)
        found.append(Case(pair_id, pair_id, group(record), record.group, record.preferred, lengths))
    keys = numbered(case.pair_id for case in found)
    return [case._replace(key=key) for case, key in zip(found, keys, strict=True)]


def answer_part(text: str) -> str:
    """The text after the reasoning of a model that writes </think>."""
    return text.rpartition("</think>")[2]


def number(digits: str) -> str:
    """The number that \\d+ matched, without leading zeros; a very long one is returned unchanged, as int() would refuse it."""
    return str(int(digits)) if len(digits) < 10 else digits


def given(trial: Mapping[str, str | None]) -> str | None:
    """The verdict in the order of the record, or the one of the exchanged order if there is no other."""
    return trial["12"] if "12" in trial else trial["21"]


def drawn(trials: Mapping[str, Trials], cases: Sequence[Case]) -> list[Item]:
    """Items with the expected share of right trials, if the order of each trial is drawn at random."""
    return [
        case.item(mean([mean([float(choice == case.preferred) for choice in trial.values()]) for trial in trials[case.pair_id]]))
        for case in cases
    ]


def rewarded(rows: Sequence[Row], keys: Sequence[str], group: Callable[[Row], str]) -> list[Item]:
    """Items of rows with "rewards", right if the better response has the greater reward.

    keys: the keys of a row that identify its item; the first of them is its cluster. R1-Reward (inference/ at 3693413) writes the reward of
    the better response first. Proxy-GRM (eval/ at b6cf23d) writes the rewards in the order shown, with "reverse" true if the worse response
    was shown first. ValueError names the row if its rewards are not two finite numbers, or if "reverse" is no bool.
    """
    items = []
    for name, row in zip(numbered("\t".join(map(row.value, keys)) for row in rows), rows, strict=True):
        rewards = row.value("rewards", list)
        if len(rewards) != 2 or any(type(reward) not in (int, float) or not math.isfinite(reward) for reward in rewards):
            raise ValueError(f"{row.where}: key 'rewards': {rewards!r:.80} is not two finite numbers")
        better, worse = rewards[::-1] if "reverse" in row.values and row.value("reverse", bool) else rewards
        items.append(Item(name, group(row), row.value(keys[0]), float(better > worse)))
    return items


def logged(rows: Sequence[Row], metric: str) -> list[tuple[str, Row]]:
    """The names and rows of the lines that lmms-eval --log_samples writes (loggers/evaluation_tracker.py at 75571cf).

    The values under the metric's name are added to the row. Several documents may have the same id, so the name contains doc_id.
    """
    found = [replace(row, values=row.values | row.value(metric, dict)) for row in rows]
    names = numbered(f"{row.value('question_id')}\t{row.value('doc_id', int)}" for row in found)
    return list(zip(names, found, strict=True))


def numbered(names: Iterable[str]) -> list[str]:
    """The names, made distinct: from its second occurrence on, a name gets a number, as in "name\\t#2"."""
    counts: Counter[str] = Counter()
    found = []
    for name in names:
        counts[name] += 1
        found.append(name if counts[name] == 1 else f"{name}{_REPEATED}{counts[name]}")
    return found


def repeated_note(items: Iterable[Item]) -> list[str]:
    """A note if several items have the same name, which numbered() has made distinct."""
    names = [item.key.rpartition(_REPEATED)[0] for item in items if _REPEATED in item.key]
    first = names[0].split("\t")[0] if names else ""
    return [f"{len(names):,} rows repeat an item, and each counts; the first is of {first[:80]}"] if names else []


def score(items: Iterable[Item]) -> Score:
    """overall: the share of right items (micro average). groups: the same for each group. macro: the mean of the groups."""
    by_group: dict[str, list[Item]] = {}
    for item in items:
        by_group.setdefault(item.group, []).append(item)
    groups = {group: _share(by_group[group]) for group in sorted(by_group)}
    known = [value for value in groups.values() if value is not None]
    return {
        "overall": _share(item for group in by_group.values() for item in group),
        "macro": mean(known) if known and len(known) == len(groups) else None,
        "groups": groups,
    }


def _share(items: Iterable[Item]) -> float | None:
    items = list(items)
    counted = sum(item.counted for item in items)
    return sum(item.right for item in items) / counted if counted > 0 else None


def mean(values: Sequence[float]) -> float:
    """The mean of one or more values."""
    return sum(values) / len(values)
