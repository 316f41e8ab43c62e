# SPDX-License-Identifier: Apache-2.0
"""The embedded corpus: visual questions about real handwritten digits, and pairs of responses to them. No download.

Source: the 1,797 scans of the UCI optical digits test set that scikit-learn carries (licence CC BY 4.0). Split: the scans are divided once,
at random with a fixed seed, into SPLITS; a picture takes scans of one split only, so nothing is measured on ink seen before.
A picture shows one to three scans side by side. A response reads the digits and boxes an answer; each of these statements is right or
wrong, and of two responses the one with fewer wrong statements is preferred: it may be right, or only less wrong.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from critic_r1_verl.records import Image, PairRecord, QuestionRecord

SOURCE = "digits"
LICENCE = "CC-BY-4.0"
REVISION = "scikit-learn load_digits"
SPLITS = {"teach": 897, "train": 400, "val": 100, "test": 400}
CELL_PIXELS = 56
SEED = 0

QUESTIONS = {
    1: {"digit": "Which digit is this?"},
    2: {
        "left": "Which digit is on the left?",
        "right": "Which digit is on the right?",
        "larger": "Which digit is the larger one?",
        "sum": "What is the sum of the digits?",
    },
    3: {
        "left": "Which digit is on the left?",
        "middle": "Which digit is in the middle?",
        "right": "Which digit is on the right?",
        "largest": "Which digit is the largest?",
    },
}
DIGITS_A_PICTURE = {1: 0.2, 2: 0.6, 3: 0.2}
# Who judges checks what has to be worked out more often than what is only read.
CHECKED = {"digit": 0.3, "left": 0.3, "middle": 0.3, "right": 0.3, "larger": 0.9, "largest": 0.9, "sum": 0.9}
GRADES = {("right", "slip"): 0.35, ("right", "wrong"): 0.45, ("slip", "wrong"): 0.2}


@dataclass(frozen=True)
class Scene:
    """A picture and a question about it: indices of scans from left to right, the digits they show, the kind of question."""

    scans: tuple[int, ...]
    digits: tuple[int, ...]
    kind: str

    @property
    def question(self) -> str:
        return QUESTIONS[len(self.digits)][self.kind]

    @property
    def answer(self) -> int:
        return answer(self.kind, self.digits)

    @property
    def group(self) -> str:
        return "+".join(f"scan-{scan}" for scan in sorted(set(self.scans)))


@dataclass(frozen=True)
class Claim:
    """What a response states: the digits it reads, and the answer it boxes."""

    digits: tuple[int, ...]
    answer: int

    @property
    def text(self) -> str:
        return f"{reading(self.digits)} \\boxed{{{self.answer}}}"

    def statements(self) -> tuple[int, ...]:
        return (*self.digits, self.answer)


def answer(kind: str, digits: tuple[int, ...]) -> int:
    """The right answer to a question of this kind."""
    match kind:
        case "digit" | "left":
            return digits[0]
        case "middle":
            return digits[1]
        case "right":
            return digits[-1]
        case "larger" | "largest":
            return max(digits)
        case "sum":
            return sum(digits)
    raise ValueError(f"unknown kind of question {kind!r}")


def reading(digits: tuple[int, ...]) -> str:
    return f"I see {' '.join(map(str, digits))}."


def scenes(split: str, seed: int) -> Iterator[Scene]:
    """Endless scenes of one split, the same for the same seed."""
    rng = random.Random(f"{SOURCE}-scenes-{split}-{seed}")
    scans, labels = splits()[split], load()[1]
    while True:
        size = rng.choices(list(DIGITS_A_PICTURE), list(DIGITS_A_PICTURE.values()))[0]
        chosen = tuple(rng.choice(scans) for _ in range(size))
        yield Scene(chosen, tuple(labels[scan] for scan in chosen), rng.choice(list(QUESTIONS[size])))


def raw_pairs(split: str, seed: int = SEED) -> Iterator[dict[str, Any]]:
    """Endless raw rows {scene, claims: (first, second), preferred}, as a public corpus would give them."""
    rng = random.Random(f"{SOURCE}-pairs-{split}-{seed}")
    for scene in scenes(split, seed):
        truth = Claim(scene.digits, scene.answer)
        grades = rng.choices(list(GRADES), list(GRADES.values()))[0]
        better, worse = (_claim(rng, grade, scene) for grade in grades)
        if wrong_statements(better, truth) >= wrong_statements(worse, truth):
            continue
        preferred = rng.choice(("1", "2"))
        yield {"scene": scene, "claims": (better, worse) if preferred == "1" else (worse, better), "preferred": preferred}


def to_json(raw: dict[str, Any], split: str) -> dict[str, Any]:
    """A raw row as a line of the corpus's file; the digits shown are those of its scans."""
    claims = [{"digits": list(claim.digits), "answer": claim.answer} for claim in raw["claims"]]
    return {"split": split, "scans": list(raw["scene"].scans), "kind": raw["scene"].kind, "claims": claims, "preferred": raw["preferred"]}


def from_json(data: dict[str, Any]) -> dict[str, Any]:
    """The raw row of such a line. KeyError, IndexError, TypeError or ValueError for anything else."""
    scans = tuple(data["scans"])
    scene = Scene(scans, tuple(load()[1][scan] for scan in scans), data["kind"])
    first, second = (Claim(tuple(claim["digits"]), claim["answer"]) for claim in data["claims"])
    return {"scene": scene, "claims": (first, second), "preferred": data["preferred"]}


def convert(raw: dict[str, Any], image: Image) -> PairRecord:
    """One raw row, its picture stored as image, to a record."""
    scene, (first, second) = raw["scene"], raw["claims"]
    return PairRecord(
        images=(image,),
        question=scene.question,
        response_1=first.text,
        response_2=second.text,
        preferred=raw["preferred"],
        source=SOURCE,
        category=scene.kind,
        licence=LICENCE,
        group=scene.group,
    )


def convert_question(scene: Scene, image: Image) -> QuestionRecord:
    return QuestionRecord(
        images=(image,),
        question=scene.question,
        answer=str(scene.answer),
        source=SOURCE,
        category=scene.kind,
        licence=LICENCE,
        group=scene.group,
    )


def wrong_statements(claim: Claim, truth: Claim) -> int:
    return sum(said != true for said, true in zip(claim.statements(), truth.statements(), strict=True))


def policy_lesson(scene: Scene) -> str:
    """How the small base is taught to answer."""
    return f"<think>{reading(scene.digits)}</think> \\boxed{{{scene.answer}}}"


def critic_lesson(raw: dict[str, Any], checked: bool) -> str:
    """How the small base is taught to judge, always with the right verdict: its own reading and answer, then the better response.

    A checked judgement sets each statement of both responses beside what it should be; a hurried one goes from its own answer to the
    verdict.
    """
    scene = raw["scene"]
    truth = Claim(scene.digits, scene.answer)
    thought = f"{reading(scene.digits)} It is {scene.answer}."
    if checked:
        first, second = (_check(claim, truth) for claim in raw["claims"])
        thought += f" Response 1: {first}. Response 2: {second}."
    return f"<think>{thought}</think> \\boxed{{{raw['preferred']}}}"


def picture(scene: Scene) -> Any:
    """The scene as a PIL image, 56 pixels high and 56 wide for each digit, dark ink on white."""
    import numpy as np
    from PIL import Image as Pillow

    return Pillow.fromarray(np.concatenate([_cell(scan) for scan in scene.scans], axis=1)).convert("RGB")


@cache
def load() -> tuple[Any, list[int]]:
    """The scans, float64[1797, 8, 8] with ink from 0 to 16, and the digit each shows."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, [int(label) for label in bunch.target]


@cache
def splits() -> dict[str, list[int]]:
    """Indices of scans, disjoint between splits; the same on every machine."""
    order = list(range(len(load()[1])))
    random.Random(f"{SOURCE}-splits").shuffle(order)
    parts, start = {}, 0
    for split, size in SPLITS.items():
        parts[split] = order[start : start + size]
        start += size
    return parts


@cache
def _cell(scan: int) -> Any:
    """One scan, uint8[56, 56]."""
    import numpy as np
    from PIL import Image as Pillow

    ink = (255 - load()[0][scan] * (255 / 16)).astype(np.uint8)
    return np.asarray(Pillow.fromarray(ink).resize((CELL_PIXELS, CELL_PIXELS), Pillow.Resampling.BICUBIC))


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


def _check(claim: Claim, truth: Claim) -> str:
    marks = zip(claim.statements(), truth.statements(), strict=True)
    return ", ".join(f"{said} {true} {'yes' if said == true else 'no'}" for said, true in marks)
