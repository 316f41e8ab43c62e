# SPDX-License-Identifier: Apache-2.0
"""The embedded corpus: visual questions about real handwritten digits, and pairs of responses to them. No download.

Source: the 1,797 scans of the UCI optical digits test set in scikit-learn (licence CC BY 4.0). Split: the scans are divided once, at random
with a fixed seed, into SPLITS. All scans of a picture are from one split, so the test pictures show only unseen scans.
Schema grade A: world.py beside this file draws the rows. Label rule: the response with fewer wrong statements is preferred.
A picture shows one to three scans side by side. A response states the digits and an answer in a box; each of these statements is right or
wrong. `critic-r1 data build --corpus examples/digits/corpus.py:PATH` converts the rows like those of any corpus.
"""

import importlib.util
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from critic_r1_verl.images import BadImage
from critic_r1_verl.records import PairRecord, QuestionRecord, Record
from data_prep.corpus import Put, SchemaError, Skip

NAME = "digits"
HUB = None
CONFIG = None
SPLIT = "train"
REVISION = "scikit-learn load_digits"
LICENCE = "CC-BY-4.0"
GRADE = "A"
COLUMNS = {"split", "scans", "kind"}
FILES = ("rows.jsonl",)

SPLITS = {"teach": 897, "train": 400, "val": 100, "test": 400}
CELL_PIXELS = 56

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


@dataclass(frozen=True)
class Scene:
    """A picture, given by the indices of its scans from left to right, and the kind of question about it."""

    scans: tuple[int, ...]
    kind: str

    @property
    def digits(self) -> tuple[int, ...]:
        """The digits that the scans show."""
        return tuple(load()[1][scan] for scan in self.scans)

    @property
    def question(self) -> str:
        return QUESTIONS[len(self.scans)][self.kind]

    @property
    def answer(self) -> int:
        return answer(self.kind, self.digits)

    @property
    def group(self) -> str:
        return "+".join(f"scan-{scan}" for scan in sorted(set(self.scans)))


@dataclass(frozen=True)
class Claim:
    """The statements of a response: the digits that it reads, and the answer in its box."""

    digits: tuple[int, ...]
    answer: int

    @property
    def text(self) -> str:
        return f"{reading(self.digits)} \\boxed{{{self.answer}}}"

    def statements(self) -> tuple[int, ...]:
        return (*self.digits, self.answer)


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair or, if the row has no claims, one question, in the split of the row. SchemaError if the row has another form."""
    try:
        scene = Scene(tuple(raw["scans"]), raw["kind"])
        common: dict[str, Any] = {"source": NAME, "licence": LICENCE, "category": scene.kind, "group": scene.group, "split": raw["split"]}
        common |= {"images": (put(picture(scene)),), "question": scene.question}
        if raw.get("claims") is None:
            return [QuestionRecord(answer=str(scene.answer), **common)]
        first, second = (Claim(tuple(claim["digits"]), claim["answer"]) for claim in raw["claims"])
        return [PairRecord(response_1=first.text, response_2=second.text, preferred=raw["preferred"], **common)]
    except BadImage:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SchemaError(f"found the keys {sorted(raw)}, expected what world.py writes: {type(error).__name__}: {error}") from error


def answer(kind: str, digits: tuple[int, ...]) -> int:
    """The right answer to a question of this kind. ValueError if the kind is unknown."""
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


def picture(scene: Scene) -> Any:
    """The scene as a PIL image, 56 pixels high and 56 wide for each digit, dark ink on white."""
    import numpy as np
    from PIL import Image as Pillow

    return Pillow.fromarray(np.concatenate([_cell(scan) for scan in scene.scans], axis=1)).convert("RGB")


@cache
def load() -> tuple[Any, list[int]]:
    """The scans, float64[1797, 8, 8] with ink from 0 to 16, and the digit that each shows.

    Read from the file of scikit-learn's load_digits, because importing the package takes seconds. ModuleNotFoundError without the package.
    """
    import numpy as np

    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the digits are those of scikit-learn, which is not installed; run `make setup`")
    table = np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), [int(label) for label in table[:, -1]]


@cache
def splits() -> dict[str, list[int]]:
    """The indices of the scans of each split, which are disjoint and the same on every machine."""
    order = list(range(len(load()[1])))
    random.Random(f"{NAME}-splits").shuffle(order)
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
