# SPDX-License-Identifier: Apache-2.0
"""Judgements -> trials -> items -> score: what the official scores of several benchmarks have in common.

An official protocol shows each pair in one order a trial, drawn by a coin. Where a repeat has both orders, the score is its expectation
over that coin; where it has one, that one counts. All scores are shares in [0, 1], None where nothing is left to count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from critic_r1_verl.records import PairRecord

Score = dict[str, Any]
Lines = Sequence[Mapping[str, Any]]
Parse = Callable[[str], str | None]
Trials = list[dict[str, str | None]]
"""For each repeat the verdict by order, in the frame of the record."""

OTHER = {"1": "2", "2": "1"}


class Item(NamedTuple):
    """One item: of `counted` that enter the denominator, `right` are right; cluster names what it shares with other items."""

    key: str
    group: str
    cluster: str
    right: float
    counted: float = 1.0


def reader(judgements: Lines, own: Parse | None) -> str:
    """ "own" if a benchmark's own grammar reads more of the texts than the box does, that is, if its prompt was used; else "box"."""
    if own is None:
        return "box"
    read = sum((own(answer_part(line["text"])) is not None) - (line["choice"] is not None) for line in judgements)
    return "own" if read > 0 else "box"


def trials(judgements: Lines, own: Parse | None = None) -> dict[str, Trials]:
    """pair_id -> its trials, verdicts read as reader() says."""
    by_own = own if own and reader(judgements, own) == "own" else None
    repeats: dict[str, dict[int, dict[str, str | None]]] = {}
    for line in judgements:
        shown = by_own(answer_part(line["text"])) if by_own else line["choice"]
        choice = OTHER.get(shown, shown) if line["order"] == "21" and shown is not None else shown
        repeats.setdefault(line["pair_id"], {}).setdefault(line["repeat"], {})[line["order"]] = choice
    return {pair_id: [by_repeat[repeat] for repeat in sorted(by_repeat)] for pair_id, by_repeat in repeats.items()}


def answer_part(text: str) -> str:
    """What follows a reasoning model's own thought."""
    return text.rpartition("</think>")[2]


def number(digits: str) -> str:
    """What a grammar's \\d+ says: "01" is "1"; too long a number to convert says nothing but itself."""
    return str(int(digits)) if len(digits) < 10 else digits


def given(trial: Mapping[str, str | None]) -> str | None:
    """The verdict in the order in which the benchmark stores the pair, or the only one there is."""
    return trial["12"] if "12" in trial else trial["21"]


def expected_accuracy(pair: Trials, preferred: str) -> float:
    """Share of trials that are right, the order of each drawn by a coin."""
    return mean([mean([float(choice == preferred) for choice in trial.values()]) for trial in pair])


def keys(records: Sequence[PairRecord]) -> list[str]:
    """A name for each record: its pair_id, and a number for those that stand there again."""
    return numbered([record.pair_id for record in records])


def numbered(names: Sequence[str]) -> list[str]:
    """The names, from its second time on each with a number."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        times = seen[name] = seen.get(name, 0) + 1
        distinct.append(name if times == 1 else f"{name}#{times}")
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
