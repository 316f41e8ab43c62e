# SPDX-License-Identifier: Apache-2.0
"""MM-RLHF-RewardBench: 170 pairs over 46 ids, two to six an id: mcq 42, long 37, short 34, safety 32, video 25.

Source: hub yifanzhang114/MM-RLHF-RewardBench, mm_reward_bench.jsonl. Licence: none stated. The chosen response is response_1 of each
record. A video is a folder of frames; FRAMES of them stand for it, as many as the official code takes.
Metric (MM-RLHF llava/eval/cal_performance_mmreweard_bench.py at 94828f9): Acc, pairs whose chosen response has the greater reward; Acc+,
ids with all pairs right. For a judge of pairs, right is the verdict for the chosen response.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import Image, PairRecord

HUB = "yifanzhang114/MM-RLHF-RewardBench"
FILES = ("mm_reward_bench.jsonl", "**/*.parquet")
PAIRS = 170
GROUPS = {"mcq": 42, "long": 37, "short": 34, "safety": 32, "video": 25}
PUBLISHED = ({"id", "chosen", "rejected", "rewards"},)
FRAMES = 32
parse = None


def load(location: str | Path, out: Path) -> Iterator[PairRecord]:
    return reading.records(reading.rows(location or HUB, FILES), lambda row: _convert(row, out))


def group(record: PairRecord) -> str:
    return record.category


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    return summary(tally.drawn(trials, cases))


def published(rows: list[Row]) -> list[tally.Item]:
    """Items of the official result file: input rows with "rewards", [of the chosen, of the rejected response]."""
    items = []
    names = tally.numbered(["\t".join(row.value(name) for name in ("id", "chosen", "rejected")) for row in rows])
    for name, row in zip(names, rows, strict=True):
        rewards = row.value("rewards", list)
        if len(rewards) != 2 or any(type(reward) not in (int, float) for reward in rewards):
            raise ValueError(f"{row.where}: key 'rewards': {rewards!r:.80} is not two numbers")
        items.append(tally.Item(name, _group_of(row), row.value("id"), float(rewards[0] > rewards[1])))
    return items


def summary(items: list[tally.Item]) -> tally.Score:
    """Acc as overall, and Acc+ (where the orders were drawn, its expectation) beside it."""
    by_id: dict[str, list[tally.Item]] = {}
    for item in items:
        by_id.setdefault(item.cluster, []).append(item)
    plus = [tally.Item(name, pairs[0].group, name, math.prod(pair.right for pair in pairs)) for name, pairs in by_id.items()]
    return tally.score(items) | {"acc_plus": tally.score(plus)}


def _convert(row: Row, out: Path) -> PairRecord:
    # The rows say mcq/NAME or video/NAME; the hub has images/NAME.
    if image := row.values.get("image"):
        flat = [image.split("/", 1)[-1]] if isinstance(image, str) else []
        images: tuple[Image, ...] = (reading.store(row, image, out, *flat),)
    else:
        video = row.value("video")
        images = reading.frames(row, (video, video.removeprefix("video/")), out, FRAMES)
    return PairRecord(
        images=images,
        question=row.value("prompt").replace("<image>", "").strip(),
        response_1=row.value("chosen"),
        response_2=row.value("rejected"),
        preferred="1",
        source="mm_rlhf_rewardbench",
        category=_group_of(row),
        group=row.value("id"),
    )


def _group_of(row: Row) -> str:
    path = str(row.values.get("image") or row.values.get("video"))
    if found := next((name for name in GROUPS if name in path), None):
        return found
    raise ValueError(f"{row.where}: no category ({', '.join(GROUPS)}) in the media path {path!r:.80}")
