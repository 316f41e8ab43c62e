# SPDX-License-Identifier: Apache-2.0
"""VL-RewardBench: 1,250 pairs, general 183, hallucination 749, reasoning 318; since mid-2025 1,247 on the hub (card at 0e6e627).

Source: hub MMInstruction/VL-RewardBench, split test. Licence: MIT, "research use only". In the stored order of the 1,250 the first response
is better in 1,245 rows; 25 ids stand twice, with different responses.
Metric (vl-rewardbench/VL_RewardBench cal.py at 91b241e): of K trials an item is right or wrong if more than half say so; all others leave
the denominator. The script draws 1, 3, 5, 7 and 9 of 10 trials and prints each; here K is all there are, be it even. In the official
wording any answer number but the rejected one's is right.
Published results: the lines of the official inference_hf.py; the hits of IXC-2.5-Reward (InternLM-XComposer-2.5-Reward/evaluation at
0f70c3e); rows with rewards, in the official groups (theirs put RLHF-V and RLAIF-V into general); what lmms-eval logs (tasks/vl_rewardbench
at 75571cf, which prints the macro).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from critic_r1_verl.benchmarks import mm_rlhf_rewardbench, reading, tally
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import PairRecord

HUB = "MMInstruction/VL-RewardBench"
FILES = ("**/*test*.parquet", "*.parquet", "data.jsonl", "data.json")
PAIRS = (1_250, 1_247)
GROUPS = {"general": 183, "hallucination": 749, "reasoning": 318}
_LOGGED = "vlreward_score"
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
    return tally.score(items)


def recognises(values: Mapping[str, Any]) -> bool:
    if {"id", "chosen", "rejected", "rewards"} <= values.keys():
        # Two other benchmarks' rows have these keys too; there a category stands among them, or is the name of the media's folder.
        folder = PurePosixPath(str(values.get("image") or values.get("video"))).parent.name
        return "Category" not in values and folder not in mm_rlhf_rewardbench.GROUPS
    shapes = ({"out_all"}, {_LOGGED}, {"id", "query", "response", "ranking", "meta"})
    return values.keys() == {"0"} or any(shape <= values.keys() for shape in shapes)


def published(rows: list[Row]) -> tally.Published:
    first, notes = rows[0].values, []
    if "out_all" in first:
        items = _hits(rows[0])
    elif "rewards" in first:
        items = tally.rewarded(rows, ("id", "chosen", "rejected"), lambda row: _group_of(row.value("id")))
    elif _LOGGED in first:
        items = [
            tally.Item(name, _group_of(row.value("question_id")), row.value("question_id"), float(row.one_of("score", 0, 1)))
            for name, row in tally.logged(rows, _LOGGED)
        ]
        notes = ["where a verdict could not be parsed, lmms-eval asked another model or tossed a coin, and that counts"]
    else:
        items, notes = _voted(rows)
    return tally.Published(items, tally.score(items), notes)


def _voted(rows: list[Row]) -> tuple[list[tally.Item], list[str]]:
    """Of the official inference's lines, one a trial; pandas wraps each as {"0": ...} where the first request failed and is null."""
    trials: dict[tuple[str, ...], list[list[float | None]]] = {}
    num_failed = 0
    for row in rows:
        if row.values.keys() == {"0"}:
            row = replace(row, values={} if row.values["0"] is None else row.value("0", dict))
        if not row.values:
            num_failed += 1
            continue
        ranking, meta = row.value("ranking", list), replace(row, values=row.value("meta", dict))
        if ranking not in ([0, 1], [1, 0]):
            raise ValueError(f"{row.where}: key 'ranking': {ranking!r:.80} is neither [0, 1] nor [1, 0]")
        rejected = ranking.index(1 - meta.one_of("random_number", 0, 1)) + 1
        text = meta.value("filter_choice") if meta.values.get("filter_choice", "") is not None else ""
        key = (row.value("id"), row.value("query"), *sorted(map(str, row.value("response", list))))
        trials.setdefault(key, []).append([_flag(parse(text), tally.OTHER[str(rejected)])])
    if not trials:
        raise ValueError(f"{rows[0].file}: all {num_failed:,} requests failed; run the inference again")
    fewest, most = (of(map(len, trials.values())) for of in (min, max))
    several = most if fewest == most else f"{fewest} to {most}"
    notes = [f"majority of {several} trials an item; the official script prints 1, 3, 5, 7 and 9"]
    notes += [f"failed requests passed over: {num_failed:,}"] if num_failed else []
    return [_item("\t".join(key), _group_of(key[0]), key[0], flags) for key, flags in trials.items()], notes


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
