# SPDX-License-Identifier: Apache-2.0
"""The digits as a data folder: what any corpus has, and what the demo needs besides.

That is lessons for the small base (lessons.jsonl) and held-out records (test_pairs.jsonl, test_questions.jsonl).
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import critic_r1_verl
from critic_r1_verl import prompts, rows
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, replacing, write_jsonl
from data_prep import digits, images, recipe, shards, writing
from data_prep.images import ImageStore, Limits

CRITIC_TEMPLATE = "critic_short"
POLICY_TEMPLATE = "policy_short"
BASE = "tiny"


@dataclass(frozen=True)
class DigitsSize:
    """How many records of each kind."""

    policy_lessons: int = 12_000
    critic_lessons: int = 4_800
    train_pairs: int = 1_024
    val_pairs: int = 64
    test_pairs: int = 512
    test_questions: int = 512


def build_digits(out: Path, size: DigitsSize = DigitsSize(), seed: int = digits.SEED, random_labels: bool = False) -> dict[str, Any]:
    """Write everything that the demo needs to out and return the manifest. The same arguments give the same bytes.

    random_labels is the control: the labels of the training pairs, and only these, are drawn anew by a fair coin with a fixed seed.
    """
    manifest_file = out / "manifest.json"
    manifest_file.unlink(missing_ok=True)
    store = ImageStore(out, Limits(*recipe.read(BASE).pixels))
    parts: dict[str, dict[str, Any]] = {}
    critic, policy = prompts.load(CRITIC_TEMPLATE), prompts.load(POLICY_TEMPLATE)

    pairs = {split: _pairs(store, split, count, seed, parts) for split, count in _pair_counts(size).items()}
    if random_labels:
        pairs["train"] = _with_random_labels(pairs["train"], seed)
    written = {}
    for split in ("train", "val"):
        entries: list[writing.Entry] = [
            (pair, [order], []) for pair, order in zip(pairs[split], rows.balanced_orders(pairs[split]), strict=True)
        ]
        for number, (pair, orders, _) in enumerate(entries):
            [row] = shards.rows_of(pair, orders, critic, policy, split=split, index=number)
            if problems := rows.check_row(row, out):
                raise ValueError(f"{split} row {number}: {problems[0]}")
        written[split] = writing.write_rows(out, split, entries, critic, policy)
    write_jsonl(out / "test_pairs.jsonl", pairs["test"])
    questions = _questions(store, "test", size.test_questions, seed, parts)
    write_jsonl(out / "test_questions.jsonl", questions)
    _write_lessons(out / "lessons.jsonl", store, size, seed, critic, policy)

    groups = {split: {scan for pair in pairs[split] for scan in pair.group.split("+")} for split in pairs}
    groups["test"] |= {scan for question in questions for scan in question.group.split("+")}
    groups["teach"] = {f"scan-{scan}" for scan in digits.splits()["teach"]}
    _check_disjoint(groups)
    images.remove_unused(out, {f"{sha[:32]}.png" for sha in store.sizes})
    files = ("train.parquet", "val.parquet", "test_pairs.jsonl", "test_questions.jsonl", "lessons.jsonl")
    manifest = {
        "version": critic_r1_verl.__version__,
        "seed": seed,
        "random_labels": random_labels,
        "corpora": {
            digits.SOURCE: {
                "location": "embedded",
                "revision": digits.REVISION,
                "licence": digits.LICENCE,
                "grade": "A",
                "counts": _sum(parts[f"{split} pairs"] for split in ("train", "val")),
                "parts": parts,
            }
        },
        "templates": {critic.name: critic.sha, policy.name: policy.sha},
        "preferred_first": writing.preferred_first(written),
        "splits": {split: summary.counts() for split, summary in written.items()},
        "files": {name: writing.file_sha(out / name) for name in files},
        "images": writing.image_list(store.sizes),
        "versions": writing.versions(),
    }
    rows.write_manifest(manifest_file, manifest)
    return manifest


def _sum(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for part in parts:
        total.update(read=part["read"], kept=part["kept"])
        skipped.update(part["skipped"])
    return {**total, "skipped": dict(skipped)}


def _pair_counts(size: DigitsSize) -> dict[str, int]:
    return {"train": size.train_pairs, "val": size.val_pairs, "test": size.test_pairs}


def _distinct(
    stream: Iterator[Any], convert: Callable[[Any], Any], key: Callable[[Any], str], wanted: int
) -> tuple[list[Any], dict[str, Any]]:
    """The first `wanted` distinct records of an endless stream, and the counts: kept + skipped = read."""
    kept: dict[str, Any] = {}
    read = 0
    for raw in stream:
        read += 1
        record = convert(raw)
        kept.setdefault(key(record), record)
        if len(kept) == wanted:
            break
    return list(kept.values()), {"read": read, "kept": wanted, "skipped": {"duplicate": read - wanted}}


def _pairs(store: ImageStore, split: str, count: int, seed: int, parts: dict[str, Any]) -> list[PairRecord]:
    def convert(raw: dict[str, Any]) -> PairRecord:
        return digits.convert(raw, store.put(digits.picture(raw["scene"])))

    records, parts[f"{split} pairs"] = _distinct(digits.raw_pairs(split, seed), convert, lambda pair: pair.pair_id, count)
    return records


def _questions(store: ImageStore, split: str, count: int, seed: int, parts: dict[str, Any]) -> list[QuestionRecord]:
    def convert(scene: digits.Scene) -> QuestionRecord:
        return digits.convert_question(scene, store.put(digits.picture(scene)))

    # Another seed than the pairs', so that questions and pairs do not share their scenes.
    records, parts[f"{split} questions"] = _distinct(digits.scenes(split, seed + 1), convert, lambda question: question.question_id, count)
    return records


def _with_random_labels(pairs: list[PairRecord], seed: int) -> list[PairRecord]:
    rng = random.Random(f"control-{seed}")
    return [replace(pair, preferred=rng.choice(("1", "2"))) for pair in pairs]


def _write_lessons(file: Path, store: ImageStore, size: DigitsSize, seed: int, critic: prompts.Template, policy: prompts.Template) -> None:
    """One lesson a line: {skill, image, prompt, response}, on pictures of the teaching scans."""

    def lesson(skill: str, scene: digits.Scene, prompt: Callable[[Image], str], response: str) -> str:
        image = store.put(digits.picture(scene))
        return json.dumps({"skill": skill, "image": image.path, "prompt": prompt(image), "response": response}) + "\n"

    style = random.Random(f"{digits.SOURCE}-style-{seed}")
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for scene in islice(digits.scenes("teach", seed), size.policy_lessons):
            text = partial(_policy_prompt, scene, policy)
            stream.write(lesson("policy", scene, text, digits.policy_lesson(scene)))
        for raw in islice(digits.raw_pairs("teach", seed), size.critic_lessons):
            checked = style.random() < digits.CHECKED[raw["scene"].kind]
            text = partial(_critic_prompt, raw, critic)
            stream.write(lesson("critic", raw["scene"], text, digits.critic_lesson(raw, checked)))


def _policy_prompt(scene: digits.Scene, template: prompts.Template, image: Image) -> str:
    return prompts.policy_text(digits.convert_question(scene, image), template)


def _critic_prompt(raw: dict[str, Any], template: prompts.Template, image: Image) -> str:
    return prompts.critic_text(digits.convert(raw, image), "12", template)


def _check_disjoint(groups: dict[str, set[str]]) -> None:
    names = sorted(groups)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if shared := groups[first] & groups[second]:
                raise ValueError(f"splits {first} and {second} share {sorted(shared)[0]}: a measurement would rest on ink seen before")
