# SPDX-License-Identifier: Apache-2.0
"""Multimodal RewardBench: 5,211 pairs; what is public lacks the 500 of Hateful Memes, which every user has to build.

Source: data/all_data.json as facebookresearch/multimodal_rewardbench scripts/0_download_data.py writes it, or the hub copy
syhuggingface/multimodal_rewardbench. Licence: CC BY-NC 4.0 and the terms of the sets that it is made of.
Metric (scripts/2_get_accuracy.py at 3366b34): one pass in the given order, overall micro; an unparsed verdict tosses a coin, so it counts
half here. [[A]] is looked for before [[B]]. The official code prints no macro; ours is over the groups that it prints. Published results:
its answer file (with -n its scorer cannot read it: an item is the mean of its outputs here), rows with rewards, what lmms-eval logs (at
75571cf, tasks/multimodal_rewardbench; the coin it tosses has a fixed seed).
"""

from collections.abc import Iterator, Mapping, Sequence
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
_COIN = 0.5


def load(location: str | Path, out: Path) -> Iterator[PairRecord]:
    return reading.records(reading.rows(location or HUB, FILES), lambda row: _convert(row, out))


def group(record: PairRecord) -> str:
    return record.category


def parse(text: str) -> str | None:
    return "1" if "[[A]]" in text else "2" if "[[B]]" in text else None


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    """Of the given order alone, if it was judged; the mean over the repeats. What is neither "1" nor "2" is unparsed."""
    items = []
    for case in cases:
        right = tally.mean([_right(tally.given(trial), case.preferred) for trial in trials[case.pair_id]])
        items.append(tally.Item(case.key, case.group, case.cluster, right))
    return tally.score(items)


def recognises(values: Mapping[str, Any]) -> bool:
    return any(keys <= values.keys() for keys in ({"ID", "Label", "Meta"}, {"Category", "rewards"}, {_LOGGED}))


def published(rows: list[Row]) -> tally.Published:
    first = rows[0].values
    if "rewards" in first:
        # Proxy-GRM's rows are of a file whose keys are not the official ones.
        keys = ("ID",) if "ID" in first else ("id", "chosen", "rejected")
        items = tally.rewarded(rows, keys, lambda row: _group_of(row, row.value(keys[0]), row.value("Category")))
    elif _LOGGED in first:
        items = [_judged(name, row) for name, row in tally.logged(rows, _LOGGED)]
    else:
        items = [_judged(name, row) for name, row in zip(tally.numbered(row.value("ID") for row in rows), rows, strict=True)]
    return tally.Published(items, tally.score(items))


def _judged(name: str, row: Row) -> tally.Item:
    """Of an answer, or of what lmms-eval logs: its texts are parsed again, so an unparsed one counts half; of several, the mean."""
    if _LOGGED in row.values:
        key, item_id, category = "filtered_resps", row.value("question_id"), row.value("category")
        preferred = "1" if row.one_of("target", "Output1", "Output2") == "Output1" else "2"
    else:
        key = "outputs" if "outputs" in row.values else "output"
        item_id, category = row.value("ID"), row.value("Meta", dict).get("Category")
        preferred = "1" if row.one_of("Label", "A", "B") == "A" else "2"
    texts = row.values.get(key)
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{row.where}: key {key!r}: {texts!r:.80} is neither a text nor a list of texts")
    right = tally.mean([_right(parse(text), preferred) for text in texts])
    return tally.Item(name, _group_of(row, item_id, category), item_id, right)


def _convert(row: Row, out: Path) -> PairRecord:
    return PairRecord(
        images=(reading.store(row, row.values.get("Image"), out),),
        question=row.value("Text"),
        response_1=row.value("Output1"),
        response_2=row.value("Output2"),
        preferred="1" if row.one_of("Better", "Output1", "Output2") == "Output1" else "2",
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
    return float(choice == preferred) if choice in tally.OTHER else _COIN
