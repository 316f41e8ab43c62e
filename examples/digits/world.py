# SPDX-License-Identifier: Apache-2.0
"""Draws the embedded world: the raw rows of the corpus, and the lessons from which the small base learns to see, to answer and to judge.

    python examples/digits/world.py --out runs/demo/world

writes OUT/rows.jsonl (pairs and questions for training, validation and test, each with its split; corpus.py converts them), and
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

from critic_r1_verl import foreign

Raw = TypeVar("Raw")

# The probability of each number of digits in a picture.
DIGITS_A_PICTURE = {1: 0.2, 2: 0.6, 3: 0.2}
# The probability that a judgement is a checked one: higher for answers that must be computed than for those that are only read.
CHECKED = {"digit": 0.3, "left": 0.3, "middle": 0.3, "right": 0.3, "larger": 0.9, "largest": 0.9, "sum": 0.9}
# The probability of each combination of a better and a worse response.
GRADES = {("right", "slip"): 0.35, ("right", "wrong"): 0.45, ("slip", "wrong"): 0.2}


@dataclass(frozen=True)
class Size:
    """The number of lessons and rows of each kind."""

    policy_lessons: int = 12_000
    critic_lessons: int = 4_800
    train_pairs: int = 1_024
    val_pairs: int = 64
    test_pairs: int = 512
    train_questions: int = 512
    val_questions: int = 32
    test_questions: int = 512


@dataclass(frozen=True)
class Pair:
    """A scene, the claims of two responses, and which response ("1" or "2") has fewer wrong statements."""

    scene: Scene
    claims: tuple[Claim, Claim]
    preferred: str


def write(out: Path, size: Size = Size(), seed: int = 0) -> None:
    """Draw the world into the folder out."""
    with replacing(out / "rows.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows(size, seed)), encoding="utf-8")
    _write_lessons(out, size, seed)


def rows(size: Size, seed: int) -> list[dict[str, Any]]:
    """The raw rows. Each kind is spread evenly over them, so that the first rows (--limit of a build) contain every split."""
    kinds = []
    for split, number in (("train", size.train_pairs), ("val", size.val_pairs), ("test", size.test_pairs)):
        # Pairs are the same if they have the same scene and the same claims, in either order.
        drawn = islice(_distinct(pairs(split, seed), lambda pair: (pair.scene, frozenset(pair.claims))), number)
        kinds.append([_row(split, pair.scene, pair.claims, pair.preferred) for pair in drawn])
    for split, number in (("train", size.train_questions), ("val", size.val_questions), ("test", size.test_questions)):
        # Questions have another seed than pairs, so that they have other scenes.
        questions = islice(_distinct(scenes(split, seed + 1), lambda scene: scene), number)
        kinds.append([_row(split, scene) for scene in questions])
    positioned = [((number + 1) / len(kind), row) for kind in kinds for number, row in enumerate(kind)]
    return [row for _, row in sorted(positioned, key=lambda item: item[0])]


def scenes(split: str, seed: int) -> Iterator[Scene]:
    """An endless stream of scenes of one split, the same for the same seed."""
    rng = random.Random(f"{NAME}-scenes-{split}-{seed}")
    scans = splits()[split]
    while True:
        number = rng.choices(list(DIGITS_A_PICTURE), list(DIGITS_A_PICTURE.values()))[0]
        chosen = tuple(rng.choice(scans) for _ in range(number))
        yield Scene(chosen, rng.choice(list(QUESTIONS[number])))


def pairs(split: str, seed: int) -> Iterator[Pair]:
    """An endless stream of pairs of one split, the same for the same seed."""
    rng = random.Random(f"{NAME}-pairs-{split}-{seed}")
    for scene in scenes(split, seed):
        grades = rng.choices(list(GRADES), list(GRADES.values()))[0]
        better, worse = (_claim(rng, grade, scene) for grade in grades)
        if wrong_statements(better, scene) >= wrong_statements(worse, scene):
            continue
        preferred = rng.choice(("1", "2"))
        yield Pair(scene, (better, worse) if preferred == "1" else (worse, better), preferred)


def wrong_statements(claim: Claim, scene: Scene) -> int:
    """The number of wrong statements of a claim."""
    return sum(said != true for said, true in zip(claim.statements(), (*scene.digits, scene.answer), strict=True))


def policy_lesson(scene: Scene) -> str:
    """The answer that the small base learns to give."""
    return f"<think>{reading(scene.digits)}</think> \\boxed{{{scene.answer}}}"


def critic_lesson(pair: Pair, checked: bool) -> str:
    """The judgement that the small base learns to give: its own reading and answer, then the right verdict.

    A checked judgement compares each statement of both responses with the truth before the verdict; a hurried one does not.
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
    """A claim of this grade: "right"; "slip", with the right digits and a wrong answer; "wrong", with wrong digits and their answer."""
    if grade == "right":
        return Claim(scene.digits, scene.answer)
    if grade == "slip":
        highest = 9 * len(scene.digits) if scene.kind == "sum" else 9
        near = [scene.answer + step for step in (-3, -2, -1, 1, 2, 3)] if scene.kind == "sum" else list(range(10))
        return Claim(scene.digits, rng.choice([value for value in near if 0 <= value <= highest and value != scene.answer]))
    while True:
        digits = list(scene.digits)
        # All digits may be misread: for three nines, the largest digit changes only if all three are.
        for place in rng.sample(range(len(digits)), rng.choice((1, 1, len(digits)))):
            digits[place] = rng.randrange(10)
        misread = tuple(digits)
        if misread != scene.digits and answer(scene.kind, misread) != scene.answer:
            return Claim(misread, answer(scene.kind, misread))


def _check(claim: Claim, scene: Scene) -> str:
    compared = zip(claim.statements(), (*scene.digits, scene.answer), strict=True)
    return ", ".join(f"{said} {true} {'yes' if said == true else 'no'}" for said, true in compared)


def _write_lessons(out: Path, size: Size, seed: int) -> None:
    """Write one {kind, image, prompt, response} per line, on pictures of the split "teach"; kind is "question" or "pair"."""
    templates = {"question": prompts.load("policy_short"), "pair": prompts.load("critic_short")}
    (out / "images").mkdir(parents=True, exist_ok=True)

    # Existing files are overwritten, because a killed process may have left an incomplete picture.
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
        stream.writelines(foreign.track(lessons(), "lessons", total))


def _distinct(stream: Iterator[Raw], key: Callable[[Raw], Hashable]) -> Iterator[Raw]:
    """The stream without items whose key has occurred before."""
    seen: set[Hashable] = set()
    for item in stream:
        if (content := key(item)) not in seen:
            seen.add(content)
            yield item


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.out, seed=arguments.seed)
    foreign.say(f"{arguments.out}: rows.jsonl and lessons.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
