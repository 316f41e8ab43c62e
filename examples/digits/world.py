# SPDX-License-Identifier: Apache-2.0
"""Draws the embedded world: the corpus's raw rows, and the lessons from which the small base learns to see, to answer and to judge.

    python examples/digits/world.py --out runs/demo/world

writes OUT/rows.jsonl (pairs to train, validate and test on, and test questions, each with its split; corpus.py converts them), and
OUT/lessons.jsonl with its pictures in OUT/images/. The same arguments give the same bytes.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from critic_r1_verl import prompts
from critic_r1_verl.files import replacing
from critic_r1_verl.records import Image, PairRecord, QuestionRecord

sys.path.insert(0, str(Path(__file__).parent))
from corpus import NAME, QUESTIONS, Claim, Scene, answer, picture, reading, splits

Raw = TypeVar("Raw")

DIGITS_A_PICTURE = {1: 0.2, 2: 0.6, 3: 0.2}
# Who judges checks what has to be worked out more often than what is only read.
CHECKED = {"digit": 0.3, "left": 0.3, "middle": 0.3, "right": 0.3, "larger": 0.9, "largest": 0.9, "sum": 0.9}
GRADES = {("right", "slip"): 0.35, ("right", "wrong"): 0.45, ("slip", "wrong"): 0.2}


@dataclass(frozen=True)
class Size:
    """How many of each kind are drawn."""

    policy_lessons: int = 12_000
    critic_lessons: int = 4_800
    train_pairs: int = 1_024
    val_pairs: int = 64
    test_pairs: int = 512
    test_questions: int = 512


@dataclass(frozen=True)
class Pair:
    """A scene, the claims of two responses, and which of them has fewer wrong statements."""

    scene: Scene
    claims: tuple[Claim, Claim]
    preferred: str


def write(out: Path, size: Size = Size(), seed: int = 0, random_labels: bool = False) -> None:
    """Draw the world into the folder out. random_labels is the control: the labels of the training pairs alone are drawn by a fair coin."""
    with replacing(out / "rows.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows(size, seed, random_labels)), encoding="utf-8")
    _write_lessons(out, size, seed)


def rows(size: Size, seed: int, random_labels: bool = False) -> list[dict[str, Any]]:
    """The raw rows; each kind is spread evenly over all of them, so that the first rows (a build's --limit) hold some of every split."""
    coin = random.Random(f"control-{seed}")
    kinds = []
    for split, number in (("train", size.train_pairs), ("val", size.val_pairs), ("test", size.test_pairs)):
        drawn = islice(_distinct(pairs(split, seed), _content), number)
        by_coin = random_labels and split == "train"
        kinds.append([_row(split, pair.scene, pair.claims, coin.choice(("1", "2")) if by_coin else pair.preferred) for pair in drawn])
    # The questions have another seed than the pairs, so that the two do not share their scenes.
    questions = islice(_distinct(scenes("test", seed + 1), lambda scene: scene), size.test_questions)
    kinds.append([_row("test", scene) for scene in questions])
    placed = [((number + 1) / len(kind), row) for kind in kinds for number, row in enumerate(kind)]
    return [row for _, row in sorted(placed, key=lambda place: place[0])]


def scenes(split: str, seed: int) -> Iterator[Scene]:
    """Endless scenes of one split, the same for the same seed."""
    rng = random.Random(f"{NAME}-scenes-{split}-{seed}")
    scans = splits()[split]
    while True:
        number = rng.choices(list(DIGITS_A_PICTURE), list(DIGITS_A_PICTURE.values()))[0]
        chosen = tuple(rng.choice(scans) for _ in range(number))
        yield Scene(chosen, rng.choice(list(QUESTIONS[number])))


def pairs(split: str, seed: int) -> Iterator[Pair]:
    """Endless pairs of one split, the same for the same seed."""
    rng = random.Random(f"{NAME}-pairs-{split}-{seed}")
    for scene in scenes(split, seed):
        grades = rng.choices(list(GRADES), list(GRADES.values()))[0]
        better, worse = (_claim(rng, grade, scene) for grade in grades)
        if wrong_statements(better, scene) >= wrong_statements(worse, scene):
            continue
        preferred = rng.choice(("1", "2"))
        yield Pair(scene, (better, worse) if preferred == "1" else (worse, better), preferred)


def wrong_statements(claim: Claim, scene: Scene) -> int:
    return sum(said != true for said, true in zip(claim.statements(), (*scene.digits, scene.answer), strict=True))


def policy_lesson(scene: Scene) -> str:
    """How the small base is taught to answer."""
    return f"<think>{reading(scene.digits)}</think> \\boxed{{{scene.answer}}}"


def critic_lesson(pair: Pair, checked: bool) -> str:
    """How the small base is taught to judge, always with the right verdict: its own reading and answer, then the better response.

    A checked judgement sets each statement of both responses beside what it should be; a hurried one goes from its own answer to the
    verdict.
    """
    scene = pair.scene
    thought = f"{reading(scene.digits)} It is {scene.answer}."
    if checked:
        first, second = (_check(claim, scene) for claim in pair.claims)
        thought += f" Response 1: {first}. Response 2: {second}."
    return f"<think>{thought}</think> \\boxed{{{pair.preferred}}}"


def _row(split: str, scene: Scene, claims: tuple[Claim, ...] | None = None, preferred: str | None = None) -> dict[str, Any]:
    stated = [{"digits": list(claim.digits), "answer": claim.answer} for claim in claims] if claims else None
    return {"split": split, "scans": list(scene.scans), "kind": scene.kind, "claims": stated, "preferred": preferred}


def _claim(rng: random.Random, grade: str, scene: Scene) -> Claim:
    """A claim of this grade: "right"; "slip" reads well and answers wrongly; "wrong" misreads, and answers what follows from that."""
    if grade == "right":
        return Claim(scene.digits, scene.answer)
    if grade == "slip":
        highest = 9 * len(scene.digits) if scene.kind == "sum" else 9
        near = [scene.answer + step for step in (-3, -2, -1, 1, 2, 3)] if scene.kind == "sum" else list(range(10))
        return Claim(scene.digits, rng.choice([value for value in near if 0 <= value <= highest and value != scene.answer]))
    while True:
        digits = list(scene.digits)
        # Any number of digits: three nines have another largest digit only if all three are misread.
        for place in rng.sample(range(len(digits)), rng.choice((1, 1, len(digits)))):
            digits[place] = rng.randrange(10)
        misread = tuple(digits)
        if misread != scene.digits and answer(scene.kind, misread) != scene.answer:
            return Claim(misread, answer(scene.kind, misread))


def _check(claim: Claim, scene: Scene) -> str:
    marks = zip(claim.statements(), (*scene.digits, scene.answer), strict=True)
    return ", ".join(f"{said} {true} {'yes' if said == true else 'no'}" for said, true in marks)


def _write_lessons(out: Path, size: Size, seed: int) -> None:
    """One lesson a line: {kind, image, prompt, response}, on pictures of the teaching scans; kind is "question" or "pair"."""
    from rich.console import Console
    from rich.progress import track

    templates = {"question": prompts.load("policy_short"), "pair": prompts.load("critic_short")}
    (out / "images").mkdir(parents=True, exist_ok=True)

    # A picture that lies there already is drawn again: it may be half of one, left by a process that was killed.
    drawn: set[str] = set()

    def lesson(kind: str, scene: Scene, prompt: str, response: str) -> str:
        file = f"images/{'-'.join(map(str, scene.scans))}.png"
        if file not in drawn:
            picture(scene).save(out / file)
            drawn.add(file)
        return json.dumps({"kind": kind, "image": file, "prompt": prompt, "response": response}) + "\n"

    def lessons() -> Iterator[str]:
        image = Image(path="images/lesson.png", sha256="0" * 64)
        for scene in islice(scenes("teach", seed), size.policy_lessons):
            question = QuestionRecord(images=(image,), question=scene.question, answer=str(scene.answer), source=NAME)
            yield lesson("question", scene, prompts.policy_text(question, templates["question"]), policy_lesson(scene))
        style = random.Random(f"{NAME}-style-{seed}")
        for pair in islice(pairs("teach", seed), size.critic_lessons):
            checked = style.random() < CHECKED[pair.scene.kind]
            first, second = pair.claims
            texts = {"question": pair.scene.question, "response_1": first.text, "response_2": second.text}
            record = PairRecord(images=(image,), **texts, preferred="1", source=NAME)
            yield lesson("pair", pair.scene, prompts.critic_text(record, "12", templates["pair"]), critic_lesson(pair, checked))

    total = size.policy_lessons + size.critic_lessons
    with replacing(out / "lessons.jsonl") as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(track(lessons(), "lessons", total=total, console=Console(stderr=True)))


def _distinct(stream: Iterator[Raw], key: Callable[[Raw], Hashable]) -> Iterator[Raw]:
    """The stream without what was there before."""
    seen: set[Hashable] = set()
    for one in stream:
        if (content := key(one)) not in seen:
            seen.add(content)
            yield one


def _content(pair: Pair) -> Hashable:
    """What makes a pair: its scene and its claims in either order."""
    return pair.scene, frozenset(pair.claims)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random-labels", action="store_true", help="the control: labels of the training pairs drawn by a coin")
    arguments = parser.parse_args()
    write(arguments.out, seed=arguments.seed, random_labels=arguments.random_labels)
    print(f"{arguments.out}: rows.jsonl and lessons.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
