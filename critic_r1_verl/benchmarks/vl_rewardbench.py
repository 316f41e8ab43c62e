# SPDX-License-Identifier: Apache-2.0
"""VL-RewardBench: 1,250 pairs, general 183, hallucination 749, reasoning 318; since mid-2025 1,247 on the hub (card at 0e6e627).

Source: hub MMInstruction/VL-RewardBench, split test. Licence: MIT, "research use only". As stored, the first response is the better one in
1,245 of the 1,250 rows; 25 ids occur twice, with different responses.
Metric (vl-rewardbench/VL_RewardBench cal.py at 91b241e): an item is right, or wrong, if more than half of its K trials are; all other items
leave the denominator. The script draws 1, 3, 5, 7 and 9 of 10 trials and prints a score for each; here, K is the number of all trials,
even if it is even. In the official format, any answer number but that of the rejected response is right.
Published results: the lines of the official inference_hf.py; the hits of IXC-2.5-Reward (InternLM-XComposer-2.5-Reward/evaluation at
0f70c3e); rows with rewards, scored in the official groups and in their authors' own (R1-Reward inference/VL-Reward-Bench/get_acc.py at
176aba8, and Proxy-GRM, count the ids that begin with RLHF and RLAIF as general); and the logs of lmms-eval (tasks/vl_rewardbench at
75571cf, which prints the macro average).
"""

import re
from collections.abc import Mapping, Sequence
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
# The official pattern is _CONCLUSION \s*.*\s*-*\s* _VERDICT. As it is greedy, it finds the last verdict after the first conclusion. Two
# searches find the same in linear instead of cubic time.
_CONCLUSION = re.compile(r"Overall Judgment|Therefore", re.IGNORECASE)
_VERDICT = re.compile(r"Answer\s*(\d+)\s*is\s*(?:the\s*)?(?:slightly\s*)?better", re.IGNORECASE)


def parse(text: str) -> str | None:
    text = text.replace("\n", "").replace("*", "")
    conclusion = _CONCLUSION.search(text)
    verdicts = _VERDICT.findall(text, conclusion.end()) if conclusion else []
    return tally.number(verdicts[-1]) if verdicts else None


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    """The expected score if the order of each trial is drawn at random."""
    return tally.score(
        case.item(*_majority([[_flag(choice, case.preferred) for choice in trial.values()] for trial in trials[case.pair_id]]))
        for case in cases
    )


def recognises(values: Mapping[str, Any]) -> bool:
    if {"id", "chosen", "rejected", "rewards"} <= values.keys():
        # The rows of two other benchmarks have these keys too, but also a category, as a key or as the name of the image's folder.
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
        theirs = tally.score(item._replace(group=_case_sensitive_group(item.cluster)) for item in items)
        of_theirs = {"case_sensitive": {name: theirs[name] for name in ("macro", "groups")}}
        notes = [
            "case sensitive: the groups of R1-Reward and Proxy-GRM, which look for rlhf and rlaif in small letters, while the ids begin "
            "with RLHF and RLAIF, so that these count as general"
        ]
        return tally.Published(items, tally.score(items) | of_theirs, notes)
    elif _LOGGED in first:
        items = [
            tally.Item(name, _group_of(row.value("question_id")), row.value("question_id"), float(row.one_of("score", 0, 1)))
            for name, row in tally.logged(rows, _LOGGED)
        ]
        notes = ["if lmms-eval could not parse a verdict, the verdict of another model or a random one counts"]
    else:
        items, notes = _voted(rows)
    return tally.Published(items, tally.score(items), notes)


def _voted(rows: list[Row]) -> tuple[list[tally.Item], list[str]]:
    """The items of the lines of the official inference, one for each trial, and notes about them.

    A failed request is null. If the first one failed, pandas has wrapped every line as {"0": line}.
    """
    trials: dict[tuple[str, ...], list[list[float | None]]] = {}
    num_failed = 0
    for row in rows:
        if row.values.keys() == {"0"}:
            row = replace(row, values={} if row.values["0"] is None else row.value("0", dict))
        if not row.values:
            num_failed += 1
            continue
        ranking, meta = row.one_of("ranking", [0, 1], [1, 0]), replace(row, values=row.value("meta", dict))
        rejected = ranking.index(1 - meta.one_of("random_number", 0, 1)) + 1
        text = meta.value("filter_choice") if meta.values.get("filter_choice", "") is not None else ""
        key = (row.value("id"), row.value("query"), *sorted(map(str, row.value("response", list))))
        trials.setdefault(key, []).append([_flag(parse(text), tally.OTHER[str(rejected)])])
    if not trials:
        raise ValueError(f"{rows[0].file}: all {num_failed:,} requests failed; run the inference again")
    num_trials = [len(flags) for flags in trials.values()]
    fewest, most = min(num_trials), max(num_trials)
    count = most if fewest == most else f"{fewest} to {most}"
    notes = [f"majority of {count} trials per item; the official script prints 1, 3, 5, 7 and 9"]
    notes += [f"failed requests, not counted: {num_failed:,}"] if num_failed else []
    return [tally.Item("\t".join(key), _group_of(key[0]), key[0], *_majority(flags)) for key, flags in trials.items()], notes


def convert(row: Row, out: Path) -> PairRecord:
    if "chosen" in row.values and "human_ranking" not in row.values:
        # R1-Reward's copy (yfzhang114/r1_reward at 176aba8, inference/VL-Reward-Bench/data.jsonl).
        responses, ranking, question = [row.value("chosen"), row.value("rejected")], [0, 1], row.value("prompt")
    else:
        responses, ranking, question = row.value("response", list), row.one_of("human_ranking", [0, 1], [1, 0]), row.value("query")
    if len(responses) != 2:
        raise ValueError(f"key 'response': {len(responses)} responses, not 2")
    return PairRecord(
        images=(reading.store(row, row.values.get("image"), out),),
        question=question.replace("<image>\n", ""),
        response_1=responses[0],
        response_2=responses[1],
        preferred="1" if ranking[0] == 0 else "2",
        source="vl_rewardbench",
        category=_group_of(row.value("id")),
        licence="mit, research use only",
    )


def _group_of(item_id: str) -> str:
    return _PREFIXES.get(re.split(r"[_-]", item_id)[0], "general")


def _case_sensitive_group(item_id: str) -> str:
    if "mmmu" in item_id or "mathverse" in item_id:
        return "reasoning"
    return "hallucination" if any(word in item_id for word in ("hallucination", "rlhf", "rlaif")) else "general"


def _flag(choice: str | None, preferred: str) -> float | None:
    """1 for the preferred response, 0 for the other, None for neither."""
    return None if choice in (None, "tie") else float(choice != tally.OTHER[preferred])


def _majority(trials: list[list[float | None]]) -> tuple[float, float]:
    """The probability that most trials are right, and that most are right or most are wrong, if the order of each is drawn at random.

    trials: for each trial, the flag of each order.
    """
    # The probability of each number of right and of wrong trials.
    probabilities = {(0, 0): 1.0}
    for flags in trials:
        after: dict[tuple[int, int], float] = {}
        for (right, wrong), probability in probabilities.items():
            for flag in flags:
                counts = (right + (flag == 1), wrong + (flag == 0))
                after[counts] = after.get(counts, 0.0) + probability / len(flags)
        probabilities = after
    most_right = sum(probability for (right, _), probability in probabilities.items() if 2 * right > len(trials))
    most_wrong = sum(probability for (_, wrong), probability in probabilities.items() if 2 * wrong > len(trials))
    return most_right, most_right + most_wrong


def _hits(row: Row) -> list[tally.Item]:
    """The items of the result file of IXC-2.5-Reward: out_GROUP is a list of 0 and 1, and out_all has all of them."""
    items = []
    for name in GROUPS:
        hits = row.value(f"out_{name}", list)
        if any(type(hit) is not int or hit not in (0, 1) for hit in hits):
            raise ValueError(f"{row.where}: key 'out_{name}': a hit is neither 0 nor 1")
        items += [tally.Item(f"{name}/{number}", name, f"{name}/{number}", hit) for number, hit in enumerate(hits)]
    if sorted(row.value("out_all", list)) != sorted(int(item.right) for item in items):
        raise ValueError(f"{row.where}: out_all does not have the same hits as the groups")
    return items
