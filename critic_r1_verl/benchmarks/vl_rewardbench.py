# SPDX-License-Identifier: Apache-2.0
"""VL-RewardBench: 1,250 pairs, general 183, hallucination 749, reasoning 318.

Source: hub MMInstruction/VL-RewardBench, split test. Licence: MIT, "research use only". In the stored order the first response is better in
1,245 rows; 25 ids stand twice, with different responses.
Metric (vl-rewardbench/VL_RewardBench cal.py at 91b241e): of K trials an item is right or wrong if more than half say so; all others leave
the denominator. In the official wording any answer number but the rejected one's is right.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import PairRecord

HUB = "MMInstruction/VL-RewardBench"
FILES = ("**/*test*.parquet", "*.parquet", "data.jsonl", "data.json")
PAIRS = 1_250
GROUPS = {"general": 183, "hallucination": 749, "reasoning": 318}
PUBLISHED = ({"out_all", *(f"out_{group}" for group in GROUPS)}, {"id", "query", "response", "ranking", "meta"})
_PREFIXES = {
    "RLAIF": "hallucination",
    "RLHF": "hallucination",
    "hallucination": "hallucination",
    "mathverse": "reasoning",
    "mmmu": "reasoning",
}
# The official pattern is _CONCLUSION \s*.*\s*-*\s* _VERDICT. Greedy as it is, it finds the last verdict after the first conclusion; in two
# steps, that takes linear instead of cubic time.
_CONCLUSION = re.compile(r"Overall Judgment|Therefore", re.IGNORECASE)
_VERDICT = re.compile(r"Answer\s*(\d+)\s*is\s*(?:the\s*)?(?:slightly\s*)?better", re.IGNORECASE)


def load(location: str | Path, out: Path) -> Iterator[PairRecord]:
    return reading.records(reading.rows(location or HUB, FILES), lambda row: _convert(row, out))


def group(record: PairRecord) -> str:
    return record.category


def parse(text: str) -> str | None:
    text = text.replace("\n", "").replace("*", "")
    conclusion = _CONCLUSION.search(text)
    verdicts = _VERDICT.findall(text, conclusion.end()) if conclusion else []
    return tally.number(verdicts[-1]) if verdicts else None


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    items = []
    for case in cases:
        flags = [[_flag(choice, case.preferred) for choice in trial.values()] for trial in trials[case.pair_id]]
        items.append(_item(case.key, case.group, case.cluster, flags))
    return summary(items)


def published(rows: list[Row]) -> list[tally.Item]:
    """Items of one object of 0/1 hits by group (IXC-2.5-Reward's format), or of the lines that the official inference writes."""
    if "out_all" in rows[0].values:
        return _hits(rows[0])
    trials: dict[tuple[str, ...], list[list[float | None]]] = {}
    for row in rows:
        ranking, meta = row.value("ranking", list), row.value("meta", dict)
        if (
            sorted(map(str, ranking)) != ["0", "1"]
            or meta.get("random_number") not in (0, 1)
            or not isinstance(meta.get("filter_choice"), str)
        ):
            raise ValueError(
                f"{row.where}: ranking, meta.random_number or meta.filter_choice are not as the official inference writes them"
            )
        rejected = ranking.index(1 - meta["random_number"]) + 1
        key = (row.value("id"), row.value("query"), *sorted(map(str, row.value("response", list))))
        trials.setdefault(key, []).append([_flag(parse(meta["filter_choice"]), tally.OTHER[str(rejected)])])
    return [_item("\t".join(key), _group_of(key[0]), key[0], item) for key, item in trials.items()]


def summary(items: list[tally.Item]) -> tally.Score:
    return tally.score(items)


def _convert(row: Row, out: Path) -> PairRecord:
    responses, ranking = row.value("response", list), row.value("human_ranking", list)
    if ranking not in ([0, 1], [1, 0]):
        raise ValueError(f"key 'human_ranking': {ranking!r} is neither [0, 1] nor [1, 0]")
    if len(responses) != 2:
        raise ValueError(f"key 'response': {len(responses)} responses, not 2")
    return PairRecord(
        images=(reading.store(row, row.values.get("image"), out),),
        question=row.value("query").replace("<image>\n", ""),
        response_1=responses[0],
        response_2=responses[1],
        preferred="1" if ranking[0] == 0 else "2",
        source="vl_rewardbench",
        category=_group_of(row.value("id")),
        licence="mit, research use only",
    )


def _group_of(item_id: str) -> str:
    return _PREFIXES.get(re.split(r"[_-]", item_id)[0], "general")


def _flag(choice: str | None, preferred: str) -> float | None:
    """1 for the preferred response, 0 for the other, None for neither."""
    return None if choice in (None, "tie") else float(choice != tally.OTHER[preferred])


def _item(key: str, group: str, cluster: str, trials: list[list[float | None]]) -> tally.Item:
    """The item with the probabilities that most of its trials are right, and that most are right or most are wrong."""
    counts = {(0, 0): 1.0}
    for flags in trials:
        drawn: dict[tuple[int, int], float] = {}
        for (right, wrong), weight in counts.items():
            for flag in flags:
                after = (right + (flag == 1), wrong + (flag == 0))
                drawn[after] = drawn.get(after, 0.0) + weight / len(flags)
        counts = drawn
    agree = sum(weight for (right, _), weight in counts.items() if 2 * right > len(trials))
    reject = sum(weight for (_, wrong), weight in counts.items() if 2 * wrong > len(trials))
    return tally.Item(key, group, cluster, agree, agree + reject)


def _hits(row: Row) -> list[tally.Item]:
    items = []
    for name in GROUPS:
        hits = row.value(f"out_{name}", list)
        if any(type(hit) is not int or hit not in (0, 1) for hit in hits):
            raise ValueError(f"{row.where}: key 'out_{name}': a hit is neither 0 nor 1")
        items += [tally.Item(f"{name}/{number}", name, f"{name}/{number}", hit) for number, hit in enumerate(hits)]
    if sorted(row.value("out_all", list)) != sorted(int(item.right) for item in items):
        raise ValueError(f"{row.where}: out_all does not hold the hits of the groups")
    return items
