# SPDX-License-Identifier: Apache-2.0
"""Judgements in the form that scores need: without their texts, complete, by pair, repeat and order, in the frame of the record."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from critic_r1_verl import lines
from critic_r1_verl.benchmarks import tally
from critic_r1_verl.benchmarks.tally import Case
from critic_r1_verl.lines import Judgement
from critic_r1_verl.records import ORDERS, PairRecord, RecordFile, to_record


class Judged(NamedTuple):
    """What scores need of a judgement. choice is what the box says, own what the benchmark's grammar reads, both in the shown frame."""

    order: str
    repeat: int
    choice: str | None
    own: str | None
    status: str
    tokens: int | None


ByPair = Mapping[str, Sequence[Judged]]
"""The judgements of each pair, by repeat and order."""


def checked(path: Path, records: RecordFile[PairRecord]) -> Iterator[Judgement]:
    """The judgements of a file, each compared with its record when it is reached. ValueError names the file and the pair."""
    preferred: dict[str, set[str]] = {}
    for record in records:
        preferred.setdefault(record.pair_id, set()).add(record.preferred)
    empty = True
    for line in lines.read(path, Judgement):
        empty = False
        if line.pair_id not in preferred:
            raise ValueError(f"{path}: judges the pair {line.pair_id}, which is not in {records.path.name} beside it")
        if to_record(line.order, line.preferred) not in preferred[line.pair_id]:
            raise ValueError(
                f"{path}: the preferred response of {line.pair_id} is another one in {records.path.name}; the files are of different runs"
            )
        yield line
    if empty:
        raise ValueError(f"{path}: no judgements")


def judged_of(judgements: Iterable[Judgement], own: tally.Parse | None) -> dict[str, list[Judged]]:
    """The judgements of each pair, without their texts; `own` is the benchmark's own verdict grammar, if it has one."""
    judged: dict[str, list[Judged]] = {}
    for line in judgements:
        by_own = own(tally.answer_part(line.text)) if own else None
        order, status = sys.intern(line.order), sys.intern(line.status)
        known = Judged(order, line.repeat, line.choice, by_own, status, line.completion_tokens)
        judged.setdefault(line.pair_id, []).append(known)
    for of_pair in judged.values():
        of_pair.sort(key=lambda line: (line.repeat, line.order))
    return judged


def check_complete(judged: ByPair, cases: Sequence[Case]) -> int:
    """The number of repeats, which all pairs must have in both orders. ValueError names what is missing, doubled or unknown."""
    if not cases or not judged:
        raise ValueError("no records or no judgements: there is nothing to score")
    pairs, repeats = {case.pair_id for case in cases}, {line.repeat for of_pair in judged.values() for line in of_pair}
    expected = [(repeat, order) for repeat in sorted(repeats) for order in ORDERS]
    if unknown := judged.keys() - pairs:
        line = judged[min(unknown)][0]
        raise ValueError(f"the judgement {_show(min(unknown), line.order, line.repeat)} is of no record")
    missing = []
    for pair_id in sorted(pairs):
        found = [(line.repeat, line.order) for line in judged.get(pair_id, ())]
        if found != expected:
            if len(set(found)) < len(found):
                raise ValueError(f"a judgement of pair {pair_id} occurs twice")
            missing += [(pair_id, order, repeat) for repeat, order in expected if (repeat, order) not in found]
    if missing:
        raise ValueError(f"{len(missing)} judgements are missing, the first {_show(*missing[0])}; run the same command again to resume")
    return len(repeats)


def reader(judged: ByPair) -> str:
    """ "own" if the benchmark's own grammar reads more of the texts than the box does, that is, if its prompt was used; else "box"."""
    more = sum((line.own is not None) - (line.choice is not None) for of_pair in judged.values() for line in of_pair)
    return "own" if more > 0 else "box"


def trials_of(judged: ByPair, read_by: str = "box") -> dict[str, tally.Trials]:
    """By pair_id the verdicts of each repeat by order, in the frame of the record, read in one of the two ways."""
    trials: dict[str, tally.Trials] = {}
    for pair_id, of_pair in judged.items():
        repeats: dict[int, dict[str, str | None]] = {}
        for line in of_pair:
            shown = line.own if read_by == "own" else line.choice
            repeats.setdefault(line.repeat, {})[line.order] = tally.to_record(line.order, shown)
        trials[pair_id] = list(repeats.values())
    return trials


def voted(trials: tally.Trials) -> tuple[str | None, str | None]:
    """For each order, in the frame of the record, the verdict of more than half of the repeats; None where there is none."""
    verdicts = []
    for order in ORDERS:
        choices = [trial[order] for trial in trials]
        verdicts.append(next((choice for choice in lines.CHOICES if 2 * choices.count(choice) > len(trials)), None))
    return verdicts[0], verdicts[1]


def strict(trials: Mapping[str, tally.Trials], cases: Sequence[Case]) -> list[float]:
    """For each case 1.0 if the voted verdicts of both orders are right, else 0.0."""
    return [float(voted(trials[case.pair_id]) == (case.preferred, case.preferred)) for case in cases]


def _show(pair_id: str, order: str, repeat: int) -> str:
    return f"pair {pair_id}, order {order}, repeat {repeat}"
