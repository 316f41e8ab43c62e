# SPDX-License-Identifier: Apache-2.0
"""Corpus -> records -> rows: train.parquet, val.parquet, images/ and, last, manifest.json.

The embedded digits also have what a public corpus lacks: lessons for the small base (lessons.jsonl) and held-out records (test_pairs.jsonl,
test_questions.jsonl).
"""

import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import critic_r1_verl
from critic_r1_verl import prompts, rows
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, replacing, write_jsonl
from data_prep import digits

CRITIC_TEMPLATE = "critic_short"
POLICY_TEMPLATE = "policy_short"


@dataclass(frozen=True)
class DigitsSize:
    """How many records of each kind."""

    policy_lessons: int = 12_000
    critic_lessons: int = 4_800
    train_pairs: int = 1_024
    val_pairs: int = 64
    test_pairs: int = 512
    test_questions: int = 512


@dataclass
class ImageStore:
    """Pictures as PNG files named by the hash of their bytes, each written once."""

    root: Path
    written: set[str] = field(default_factory=set)

    def put(self, picture: Any) -> Image:
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        sha = hashlib.sha256(buffer.getvalue()).hexdigest()
        path = f"images/{sha[:32]}.png"
        if sha not in self.written:
            (self.root / "images").mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(buffer.getvalue())
            self.written.add(sha)
        return Image(path=path, sha256=sha)


def build_digits(out: Path, size: DigitsSize = DigitsSize(), seed: int = digits.SEED, random_labels: bool = False) -> dict[str, Any]:
    """Write everything that the demo needs to out and return the manifest. The same arguments give the same bytes.

    random_labels is the control: the labels of the training pairs, and only these, are drawn anew by a fair coin with a fixed seed.
    """
    manifest_file = out / "manifest.json"
    manifest_file.unlink(missing_ok=True)
    store = ImageStore(out)
    counts: dict[str, dict[str, Any]] = {}
    critic, policy = prompts.load(CRITIC_TEMPLATE), prompts.load(POLICY_TEMPLATE)

    pairs = {split: _pairs(store, split, count, seed, counts) for split, count in _pair_counts(size).items()}
    if random_labels:
        pairs["train"] = _with_random_labels(pairs["train"], seed)
    for split in ("train", "val"):
        built = [
            rows.verdict_row(pair, order, template=critic, split=split, index=index)
            for index, (pair, order) in enumerate(zip(pairs[split], rows.balanced_orders(pairs[split]), strict=True))
        ]
        for index, row in enumerate(built):
            if problems := rows.check_row(row, out):
                raise ValueError(f"{split} row {index}: {problems[0]}")
        rows.write_parquet(out / f"{split}.parquet", built)
    write_jsonl(out / "test_pairs.jsonl", pairs["test"])
    questions = _questions(store, "test", size.test_questions, seed, counts)
    write_jsonl(out / "test_questions.jsonl", questions)
    _write_lessons(out / "lessons.jsonl", store, size, seed, critic, policy)

    groups = {split: {scan for pair in pairs[split] for scan in pair.group.split("+")} for split in pairs}
    groups["test"] |= {scan for question in questions for scan in question.group.split("+")}
    groups["teach"] = {f"scan-{scan}" for scan in digits.splits()["teach"]}
    _check_disjoint(groups)
    manifest = {
        "version": critic_r1_verl.__version__,
        "corpora": {digits.SOURCE: {"revision": digits.REVISION, "licence": digits.LICENCE, "counts": counts}},
        "seed": seed,
        "random_labels": random_labels,
        "templates": {critic.name: critic.sha, policy.name: policy.sha},
        "preferred_first": {split: _first_share(out / f"{split}.parquet") for split in ("train", "val")},
        "files": {
            name: _sha256(out / name)
            for name in ("train.parquet", "val.parquet", "test_pairs.jsonl", "test_questions.jsonl", "lessons.jsonl")
        },
        "images": len(store.written),
    }
    rows.write_manifest(manifest_file, manifest)
    return manifest


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


def _pairs(store: ImageStore, split: str, count: int, seed: int, counts: dict[str, Any]) -> list[PairRecord]:
    def convert(raw: dict[str, Any]) -> PairRecord:
        return digits.convert(raw, store.put(digits.picture(raw["scene"])))

    records, counts[f"{split} pairs"] = _distinct(digits.raw_pairs(split, seed), convert, lambda pair: pair.pair_id, count)
    return records


def _questions(store: ImageStore, split: str, count: int, seed: int, counts: dict[str, Any]) -> list[QuestionRecord]:
    def convert(scene: digits.Scene) -> QuestionRecord:
        return digits.convert_question(scene, store.put(digits.picture(scene)))

    # Another seed than the pairs', so that questions and pairs do not share their scenes.
    records, counts[f"{split} questions"] = _distinct(digits.scenes(split, seed + 1), convert, lambda question: question.question_id, count)
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


def _first_share(file: Path) -> float:
    labels = [row["reward_model"]["ground_truth"] for row in rows.read_rows(file)]
    return labels.count("1") / len(labels)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
