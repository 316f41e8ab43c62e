# SPDX-License-Identifier: Apache-2.0
"""Prepares judgements for scoring: checks that they are complete and fit their records, and groups their verdicts by pair."""

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
    """What scores need of a judgement: choice is the verdict in the box, own the one in the benchmark's format, both in the shown frame."""

    order: str
    repeat: int
    choice: str | None
    own: str | None
    status: str
    tokens: int | None


ByPair = Mapping[str, Sequence[Judged]]
"""The judgements of each pair, sorted by repeat and order."""


def checked(path: Path, records: RecordFile[PairRecord]) -> Iterator[Judgement]:
    """The judgements of a file, each checked against its record. ValueError names the file and the pair, or an empty file."""
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
                f"{path}: the preferred response of {line.pair_id} differs from {records.path.name}; the files are of different runs"
            )
        yield line
    if empty:
        raise ValueError(f"{path}: no judgements")


def judged_of(judgements: Iterable[Judgement], own: tally.Parse | None) -> dict[str, list[Judged]]:
    """The judgements of each pair, without their texts. own: the parser of the benchmark's own verdict format, if it has one."""
    judged: dict[str, list[Judged]] = {}
    for line in judgements:
        # The text of a refusal is not a verdict, even if it reads like one.
        own_choice = own(tally.answer_part(line.text)) if own and line.status != "refused" else None
        order, status = sys.intern(line.order), sys.intern(line.status)
        found = Judged(order, line.repeat, line.choice, own_choice, status, line.completion_tokens)
        judged.setdefault(line.pair_id, []).append(found)
    for of_pair in judged.values():
        of_pair.sort(key=lambda line: (line.repeat, line.order))
    return judged


def check_complete(judged: ByPair, cases: Sequence[Case]) -> int:
    """The number of repeats, in each of which every pair needs both orders. ValueError names a missing, doubled or unknown judgement."""
    if not cases or not judged:
        raise ValueError("no records or no judgements: there is nothing to score")
    pairs, repeats = {case.pair_id for case in cases}, {line.repeat for of_pair in judged.values() for line in of_pair}
    expected = [(repeat, order) for repeat in sorted(repeats) for order in ORDERS]
    if unknown := judged.keys() - pairs:
        line = judged[min(unknown)][0]
        raise ValueError(f"the judgement {_show(min(unknown), line.order, line.repeat)} belongs to no record")
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
    """ "own" if more texts have a verdict in the benchmark's own format than in a box, as with the official prompt; else "box"."""
    surplus = sum((line.own is not None) - (line.choice is not None) for of_pair in judged.values() for line in of_pair)
    return "own" if surplus > 0 else "box"


def trials_of(judged: ByPair, read_by: str = "box") -> dict[str, tally.Trials]:
    """The trials of each pair_id, with the verdicts in the benchmark's format if read_by is "own", else those in the box."""
    trials: dict[str, tally.Trials] = {}
    for pair_id, of_pair in judged.items():
        repeats: dict[int, dict[str, str | None]] = {}
        for line in of_pair:
            shown = line.own if read_by == "own" else line.choice
            repeats.setdefault(line.repeat, {})[line.order] = tally.to_record(line.order, shown)
        trials[pair_id] = list(repeats.values())
    return trials


def voted(trials: tally.Trials) -> tuple[str | None, str | None]:
    """The majority verdicts of order "12" and "21", in the frame of the record; None if no verdict has more than half of the repeats."""
    verdicts = []
    for order in ORDERS:
        choices = [trial[order] for trial in trials]
        verdicts.append(next((choice for choice in lines.CHOICES if 2 * choices.count(choice) > len(trials)), None))
    return verdicts[0], verdicts[1]


def strict(trials: Mapping[str, tally.Trials], cases: Sequence[Case]) -> list[float]:
    """For each case, 1.0 if the majority verdicts of both orders are right, else 0.0."""
    return [float(voted(trials[case.pair_id]) == (case.preferred, case.preferred)) for case in cases]


def _show(pair_id: str, order: str, repeat: int) -> str:
    return f"pair {pair_id}, order {order}, repeat {repeat}"
