# SPDX-License-Identifier: Apache-2.0
"""Multimodal RewardBench: 5,211 pairs; the public files lack the 500 pairs of Hateful Memes, which every user has to build.

Source: data/all_data.json as written by facebookresearch/multimodal_rewardbench scripts/0_download_data.py, or the hub copy
syhuggingface/multimodal_rewardbench. Licence: CC BY-NC 4.0, and the terms of the data sets that it contains.
Metric (scripts/2_get_accuracy.py at 3366b34): one pass in the given order; overall is the micro average. The official code replaces an
unparsed verdict by a random one, so it counts one half here. [[A]] is searched before [[B]]. The official code prints no macro average;
ours is over the groups that it prints. Published results: the official answer file (written with -n, it has several outputs for each item,
which the official scorer cannot read; here, the item is their mean), rows with rewards, and the logs of lmms-eval
(tasks/multimodal_rewardbench at 75571cf, whose random verdicts have a fixed seed).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import PairRecord

HUB = "syhuggingface/multimodal_rewardbench"
FILES = ("**/all_data.json", "**/*.parquet")
PAIRS = (5_211,)
GROUPS = {
    "open_generation/correctness_task": 623,
    "open_generation/preference_task": 654,
    "knowledge": 630,
    "reasoning/math": None,
    "reasoning/coding": None,
    "safety/bias": None,
    "safety/toxicity": None,
    "vqa": None,
}
_LOGGED = "multimodal_rewardbench_accuracy"
_RANDOM_GUESS = 0.5


def parse(text: str) -> str | None:
    return "1" if "[[A]]" in text else "2" if "[[B]]" in text else None


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    """The mean over the repeats of the scores in the given order; a verdict other than "1" and "2" is unparsed."""
    return tally.score(
        case.item(tally.mean([_right(tally.given(trial), case.preferred) for trial in trials[case.pair_id]])) for case in cases
    )


def recognises(values: Mapping[str, Any]) -> bool:
    return any(keys <= values.keys() for keys in ({"ID", "Label", "Meta"}, {"Category", "rewards"}, {_LOGGED}))


def published(rows: list[Row]) -> tally.Published:
    first = rows[0].values
    if "rewards" in first:
        # Proxy-GRM uses a copy of the benchmark with other keys.
        keys = ("ID",) if "ID" in first else ("id", "chosen", "rejected")
        items = tally.rewarded(rows, keys, lambda row: _group_of(row, row.value(keys[0]), row.value("Category")))
    elif _LOGGED in first:
        items = [_judged(name, row) for name, row in tally.logged(rows, _LOGGED)]
    else:
        items = [_judged(name, row) for name, row in zip(tally.numbered(row.value("ID") for row in rows), rows, strict=True)]
    return tally.Published(items, tally.score(items))


def _judged(name: str, row: Row) -> tally.Item:
    """The item of an official answer or of a line logged by lmms-eval: the mean over its texts, which are parsed again."""
    if _LOGGED in row.values:
        key, item_id, category = "filtered_resps", row.value("question_id"), row.value("category")
        preferred = row.preferred("target", "Output1", "Output2")
    else:
        key = "outputs" if "outputs" in row.values else "output"
        item_id, category = row.value("ID"), row.value("Meta", dict).get("Category")
        preferred = row.preferred("Label", "A", "B")
    texts = row.values.get(key)
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{row.where}: key {key!r}: {texts!r:.80} is neither a text nor a list of texts")
    right = tally.mean([_right(parse(text), preferred) for text in texts])
    return tally.Item(name, _group_of(row, item_id, category), item_id, right)


def convert(row: Row, out: Path) -> PairRecord:
    return PairRecord(
        images=(reading.store(row, row.values.get("Image"), out),),
        question=row.value("Text"),
        response_1=row.value("Output1"),
        response_2=row.value("Output2"),
        preferred=row.preferred("Better", "Output1", "Output2"),
        source="multimodal_rewardbench",
        category=_group_of(row, row.value("ID"), row.value("Category")),
        licence="cc-by-nc-4.0",
    )


def _group_of(row: Row, item_id: str, category: Any) -> str:
    if category == "safety":
        category = "safety/bias" if item_id.lower().startswith("pairs") else "safety/toxicity"
    elif category == "reasoning":
        category = "reasoning/math" if item_id.lower().startswith("math") else "reasoning/coding"
    if not isinstance(category, str) or category not in GROUPS:
        raise ValueError(f"{row.where}: the category {category!r} is none of {', '.join(GROUPS)}, safety, reasoning")
    return category


def _right(choice: str | None, preferred: str) -> float:
    return float(choice == preferred) if choice in tally.OTHER else _RANDOM_GUESS
