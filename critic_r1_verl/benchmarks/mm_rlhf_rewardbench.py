# SPDX-License-Identifier: Apache-2.0
"""MM-RLHF-RewardBench: 170 pairs over 46 ids, two to six an id: mcq 42, long 37, short 34, safety 32, video 25.

Source: hub yifanzhang114/MM-RLHF-RewardBench, mm_reward_bench.jsonl. Licence: none stated. The chosen response is response_1 of each
record. A video is a folder of frames, of which FRAMES are shown, as many as the official code uses.
Metric (MM-RLHF llava/eval/cal_performance_mmreweard_bench.py at 94828f9): Acc, the share of pairs whose chosen response has the greater
reward; Acc+, the share of ids whose pairs are all right. Here, a pair is right if the verdict is for the chosen response.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import Image, PairRecord

HUB = "yifanzhang114/MM-RLHF-RewardBench"
FILES = ("mm_reward_bench.jsonl", "**/*.parquet")
PAIRS = (170,)
GROUPS = {"mcq": 42, "long": 37, "short": 34, "safety": 32, "video": 25}
FRAMES = 32
parse = None


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    return _score(tally.drawn(trials, cases))


def recognises(values: Mapping[str, Any]) -> bool:
    """The official results are the input rows with "rewards" added; R1-Reward and Proxy-GRM write them too."""
    return {"id", "chosen", "rejected", "rewards"} <= values.keys() and "Category" not in values


def published(rows: list[Row]) -> tally.Published:
    items = tally.rewarded(rows, ("id", "chosen", "rejected"), _group_of)
    return tally.Published(items, _score(items))


def _score(items: list[tally.Item]) -> tally.Score:
    """Acc as "overall", and "acc_plus", the expectation of Acc+ if the order of each trial is drawn at random."""
    by_id: dict[str, list[tally.Item]] = {}
    for item in items:
        by_id.setdefault(item.cluster, []).append(item)
    plus = [tally.Item(name, pairs[0].group, name, math.prod(pair.right for pair in pairs)) for name, pairs in by_id.items()]
    return tally.score(items) | {"acc_plus": tally.score(plus)}


def convert(row: Row, out: Path) -> PairRecord:
    # The paths in the rows are mcq/NAME or video/NAME; the files on the hub are images/NAME.
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
    raise ValueError(f"{row.where}: the path {path!r:.80} names no category ({', '.join(GROUPS)})")
