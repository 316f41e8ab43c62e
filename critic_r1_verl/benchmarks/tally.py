# SPDX-License-Identifier: Apache-2.0
"""Records -> cases, and their trials -> items -> score: what the official scores of several benchmarks have in common.

An official protocol shows each pair in one order a trial, drawn by a coin. Where a repeat has both orders, the score is its expectation
over that coin; where it has one, that one counts. All scores are shares in [0, 1], None where nothing is left to count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import PairRecord

Score = dict[str, Any]
Parse = Callable[[str], str | None]
Trials = list[dict[str, str | None]]
"""Of a pair, for each repeat, the verdict by order, in the frame of the record."""

OTHER = {"1": "2", "2": "1"}


def to_record(order: str, choice: str | None) -> str | None:
    """As records.to_record, also for what a benchmark's own grammar reads, which may be neither "1", "2" nor "tie"."""
    return OTHER.get(choice, choice) if order == "21" and choice is not None else choice


class Case(NamedTuple):
    """What scores need of a record: its name, pair and group, what it shares with others, its label, the responses' characters."""

    key: str
    pair_id: str
    group: str
    cluster: str
    preferred: str
    lengths: tuple[int, int]


class Item(NamedTuple):
    """One item: of `counted` that enter the denominator, `right` are right; cluster names what it shares with other items."""

    key: str
    group: str
    cluster: str
    right: float
    counted: float = 1.0


class Published(NamedTuple):
    """Results that others published: their items, the official score of these, and what else is to be said of them."""

    items: list[Item]
    score: Score
    notes: Sequence[str] = ()


def cases(records: Iterable[PairRecord], group: Callable[[PairRecord], str]) -> list[Case]:
    """One for each record; key is its pair_id, with a number for those that stand there again.

    ValueError if a pair stands there again with its responses exchanged.
    """
    distinct = numberer()
    ascending: dict[str, bool] = {}
    found = []
    for record in records:
        pair_id = record.pair_id
        if ascending.setdefault(pair_id, record.response_1 < record.response_2) != (record.response_1 < record.response_2):
            raise ValueError(
                f"pair {pair_id} stands there twice with its responses exchanged, so its orders cannot be told; load the benchmark again"
            )
        lengths = len(record.response_1), len(record.response_2)
        found.append(Case(distinct(pair_id), pair_id, group(record), record.group, record.preferred, lengths))
    return found


def answer_part(text: str) -> str:
    """What follows a reasoning model's own thought."""
    return text.rpartition("</think>")[2]


def number(digits: str) -> str:
    """What a grammar's \\d+ says: "01" is "1"; too long a number to convert says nothing but itself."""
    return str(int(digits)) if len(digits) < 10 else digits


def given(trial: Mapping[str, str | None]) -> str | None:
    """The verdict in the order in which the benchmark stores the pair, or the only one there is."""
    return trial["12"] if "12" in trial else trial["21"]


def drawn(trials: Mapping[str, Trials], cases: Sequence[Case]) -> list[Item]:
    """Items with the share of trials that are right, the order of each drawn by a coin."""
    items = []
    for case in cases:
        right = mean([mean([float(choice == case.preferred) for choice in trial.values()]) for trial in trials[case.pair_id]])
        items.append(Item(case.key, case.group, case.cluster, right))
    return items


def rewarded(rows: Sequence[Row], keys: Sequence[str], group: Callable[[Row], str]) -> list[Item]:
    """Items of rows with "rewards", right if the better response has the greater one; keys name an item, the first of them its cluster.

    R1-Reward (inference/ at 3693413) writes [of the better response, of the worse]; Proxy-GRM (eval/ at b6cf23d) writes them as it showed
    the responses, with "reverse" true where the worse was the first. ValueError for what is not two numbers, or a reverse that is no bool.
    """
    items = []
    for name, row in zip(numbered("\t".join(map(row.value, keys)) for row in rows), rows, strict=True):
        rewards = row.value("rewards", list)
        if len(rewards) != 2 or any(type(reward) not in (int, float) for reward in rewards):
            raise ValueError(f"{row.where}: key 'rewards': {rewards!r:.80} is not two numbers")
        better, worse = rewards[::-1] if "reverse" in row.values and row.value("reverse", bool) else rewards
        items.append(Item(name, group(row), row.value(keys[0]), float(better > worse)))
    return items


def logged(rows: Sequence[Row], metric: str) -> list[tuple[str, Row]]:
    """Names and rows of lines that lmms-eval --log_samples writes (loggers/evaluation_tracker.py at 75571cf).

    What stands under the metric's name is added to the row. Several documents may have one id, so doc_id is part of the name.
    """
    found = [replace(row, values=row.values | row.value(metric, dict)) for row in rows]
    names = numbered(f"{row.value('question_id')}\t{row.value('doc_id', int)}" for row in found)
    return list(zip(names, found, strict=True))


def numbered(names: Iterable[str]) -> list[str]:
    """The names, from its second time on each with a number."""
    return list(map(numberer(), names))


def numberer() -> Callable[[str], str]:
    """A function that returns a name as it is the first time, from its second time on with a number."""
    seen: dict[str, int] = {}

    def distinct(name: str) -> str:
        times = seen[name] = seen.get(name, 0) + 1
        return name if times == 1 else f"{name}#{times}"

    return distinct


def score(items: Iterable[Item]) -> Score:
    """overall: right of counted, over all items (micro). groups: the same by group. macro: mean of the groups."""
    by_group: dict[str, list[Item]] = {}
    for item in items:
        by_group.setdefault(item.group, []).append(item)
    groups = {group: share(by_group[group]) for group in sorted(by_group)}
    known = [value for value in groups.values() if value is not None]
    return {
        "overall": share(item for group in by_group.values() for item in group),
        "macro": mean(known) if known and len(known) == len(groups) else None,
        "groups": groups,
    }


def share(items: Iterable[Item]) -> float | None:
    items = list(items)
    counted = sum(item.counted for item in items)
    return sum(item.right for item in items) / counted if counted > 0 else None


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
