# SPDX-License-Identifier: Apache-2.0
"""The digits as a data folder: drawn as a corpus's file, built like any other, and beside the rows what the demo needs.

That is lessons for the small base (lessons.jsonl) and held-out records (test_pairs.jsonl, test_questions.jsonl).
"""

import hashlib
import json
import random
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from critic_r1_verl import prompts
from critic_r1_verl.files import replacing
from critic_r1_verl.records import Image, write_jsonl
from data_prep import digits, recipe
from data_prep.build import Corpus, Options, build
from data_prep.image_store import ImageStore
from data_prep.writing import Companions

BASE = "tiny"

Raw = TypeVar("Raw")


@dataclass(frozen=True)
class DigitsSize:
    """How many records of each kind."""

    policy_lessons: int = 12_000
    critic_lessons: int = 4_800
    train_pairs: int = 1_024
    val_pairs: int = 64
    test_pairs: int = 512
    test_questions: int = 512


DEFAULT_SIZE = DigitsSize()
DEFAULT_OPTIONS = Options(pixels=recipe.read(BASE).pixels, critic_template="critic_short", policy_template="policy_short")


def build_digits(
    out: Path, size: DigitsSize = DEFAULT_SIZE, options: Options = DEFAULT_OPTIONS, random_labels: bool = False
) -> dict[str, Any]:
    """Write everything that the demo needs to out and return the manifest. The same arguments give the same bytes.

    random_labels is the control: the labels of the training pairs, and only these, are drawn anew by a fair coin with a fixed seed.
    """
    file = _draw_pairs(out / ".build", size, options.seed, random_labels)
    if options.val is None and options.limit is None:
        options = replace(options, val=size.val_pairs)
    beside = partial(_write_companions, size, options, random_labels)
    return build(out, [Corpus(name=digits.SOURCE, location=str(file), drawn=True)], options, beside)


def _draw_pairs(folder: Path, size: DigitsSize, seed: int, random_labels: bool) -> Path:
    """A file of the pairs to train and validate on, one a line, those of validation spread evenly, so that --limit takes of both."""
    num_pairs = {"train": size.train_pairs, "val": size.val_pairs}
    drawn = {split: islice(_distinct(digits.raw_pairs(split, seed), _content), number) for split, number in num_pairs.items()}
    coin = random.Random(f"control-{seed}")
    lines, total = [], sum(num_pairs.values())
    for number in range(total):
        split = "val" if (number + 1) * size.val_pairs // total > number * size.val_pairs // total else "train"
        raw = next(drawn[split])
        if random_labels and split == "train":
            raw["preferred"] = coin.choice(("1", "2"))
        lines.append(json.dumps(digits.to_json(raw, split)) + "\n")
    text = "".join(lines)
    # Named by its content: another build, which waits for the folder's lock, cannot change it, and a killed one finds its shards again.
    file = folder / f"digits-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    if not file.is_file():
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return file


def _write_companions(size: DigitsSize, options: Options, random_labels: bool, store: ImageStore) -> Companions:
    """The held-out records and the lessons."""
    seed, critic, policy = options.seed, prompts.load(options.critic_template), prompts.load(options.policy_template)
    raw_pairs = islice(_distinct(digits.raw_pairs("test", seed), _content), size.test_pairs)
    pairs = [digits.convert(raw, store.put(digits.picture(raw["scene"]))) for raw in raw_pairs]
    # Another seed than the pairs', so that questions and pairs do not share their scenes.
    scenes = islice(_distinct(digits.scenes("test", seed + 1), lambda scene: scene), size.test_questions)
    questions = [digits.convert_question(scene, store.put(digits.picture(scene))) for scene in scenes]
    groups = [pair.group for pair in pairs] + [question.group for question in questions]
    _check_held_out({scan for group in groups for scan in group.split("+")})
    write_jsonl(store.out / "test_pairs.jsonl", pairs)
    write_jsonl(store.out / "test_questions.jsonl", questions)
    _write_lessons(store.out / "lessons.jsonl", store, size, seed, critic, policy)
    numbers = {
        "test_pairs.jsonl": len(pairs),
        "test_questions.jsonl": len(questions),
        "lessons.jsonl": size.policy_lessons + size.critic_lessons,
    }
    images = {sha: f"images/{sha[:32]}.png" for sha in store.sizes}
    return Companions(files=tuple(numbers), images=images, facts={"random_labels": random_labels, "companions": numbers})


def _write_lessons(file: Path, store: ImageStore, size: DigitsSize, seed: int, critic: prompts.Template, policy: prompts.Template) -> None:
    """One lesson a line: {skill, image, prompt, response}, on pictures of the teaching scans."""
    from rich.console import Console
    from rich.progress import track

    def lesson(skill: str, scene: digits.Scene, prompt: Callable[[Image], str], response: str) -> str:
        image = store.put(digits.picture(scene))
        return json.dumps({"skill": skill, "image": image.path, "prompt": prompt(image), "response": response}) + "\n"

    def lessons() -> Iterator[str]:
        for scene in islice(digits.scenes("teach", seed), size.policy_lessons):
            yield lesson("policy", scene, partial(_policy_prompt, scene, policy), digits.policy_lesson(scene))
        style = random.Random(f"{digits.SOURCE}-style-{seed}")
        for raw in islice(digits.raw_pairs("teach", seed), size.critic_lessons):
            checked = style.random() < digits.CHECKED[raw["scene"].kind]
            yield lesson("critic", raw["scene"], partial(_critic_prompt, raw, critic), digits.critic_lesson(raw, checked))

    total = size.policy_lessons + size.critic_lessons
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(track(lessons(), "lessons", total=total, console=Console(stderr=True)))


def _policy_prompt(scene: digits.Scene, template: prompts.Template, image: Image) -> str:
    return prompts.policy_text(digits.convert_question(scene, image), template)


def _critic_prompt(raw: dict[str, Any], template: prompts.Template, image: Image) -> str:
    return prompts.critic_text(digits.convert(raw, image), "12", template)


def _distinct(stream: Iterator[Raw], key: Callable[[Raw], Hashable]) -> Iterator[Raw]:
    """The stream without what was there before."""
    seen = set()
    for one in stream:
        if (content := key(one)) not in seen:
            seen.add(content)
            yield one


def _content(raw: dict[str, Any]) -> Hashable:
    """What makes a pair: its scene and its claims in either order."""
    return raw["scene"], frozenset(raw["claims"])


def _check_held_out(tested: set[str]) -> None:
    for split, scans in digits.splits().items():
        if split != "test" and (shared := tested & {f"scan-{scan}" for scan in scans}):
            raise ValueError(f"splits {split} and test share {sorted(shared)[0]}: a measurement would rest on ink seen before")
