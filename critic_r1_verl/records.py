# SPDX-License-Identifier: Apache-2.0
"""Preference pairs and questions: frozen, validated, identified by their content, kept one a line in JSONL files.

One vocabulary, "1" | "2" | "tie", names the better response from the record to the box. A pair is shown to a model in one of two orders,
"12" (as recorded) or "21" (exchanged); what the model says is in the shown frame, and to_record() turns it into the frame of the record.
Images are files in a data folder; a record knows their paths relative to that folder and the hashes of their bytes, so the same record
means the same pixels on every machine.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Literal, TypeVar

from critic_r1_verl.files import replacing

Choice = Literal["1", "2", "tie"]
"""The better response, or neither."""

Order = Literal["12", "21"]
"""The order in which a model sees the two responses of a pair, relative to the record."""

ORDERS: tuple[Order, ...] = ("12", "21")
SPLITS = ("train", "val", "test")

_SWAPPED: dict[str, Choice] = {"1": "2", "2": "1", "tie": "tie"}


def to_record(order: str, choice: str | None) -> Choice | None:
    """A choice in the shown frame of an order as one in the frame of the record; None, no choice, stays None.

    The exchange is its own inverse, so this also turns a choice in the frame of the record into the shown frame.

    >>> to_record("21", "1"), to_record("12", "1"), to_record("21", "tie")
    ('2', '1', 'tie')
    """
    if order not in ORDERS:
        raise ValueError(f"order {order!r}: give '12' (as in the record) or '21' (exchanged)")
    if choice is None:
        return None
    return _SWAPPED[choice] if order == "21" else _SWAPPED[_SWAPPED[choice]]


def path_problem(path: str) -> str | None:
    """What is wrong with an image path, or None: it must be a plain relative POSIX path that cannot leave its folder."""
    if not path or any(char in path for char in "\0\\") or str(PurePosixPath(path)) != path or path == ".":
        return "is not a plain relative POSIX path"
    if path.startswith("/") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path):
        return "is absolute; it must be relative to the data folder"
    if ".." in path.split("/"):
        return "leaves the data folder by '..'"
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One image file: its path relative to the data folder's root, and the sha256 of its bytes in hexadecimal."""

    path: str
    sha256: str

    def __post_init__(self) -> None:
        _check_texts(self, required=("path",))
        if problem := path_problem(self.path):
            raise ValueError(f"key 'path': {self.path!r} {problem}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"key 'sha256': {self.sha256!r} is not 64 lower-case hexadecimal digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRecord:
    """Two responses to one question about one or more images, and which of them is better.

    Earlier turns of a dialogue are folded into question. group names what must stay on one side of a split; by default the hashes of
    the images. split is the side that the corpus or the build has put the record on, "" where nobody has yet. Raises ValueError, naming
    the key, for anything malformed, and for a preference between two identical responses.

    >>> image = Image(path="images/cat.png", sha256="0" * 64)
    >>> pair = PairRecord(images=(image,), question="What is it?", response_1="A cat.", response_2="A dog.", preferred="1", source="demo")
    >>> pair.swap().preferred, pair.swap().pair_id == pair.pair_id
    ('2', True)
    """

    images: tuple[Image, ...]
    question: str
    response_1: str
    response_2: str
    preferred: Choice
    source: str
    category: str = ""
    licence: str = ""
    group: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        _check_texts(self, required=("question", "source"))
        _check_images(self)
        if self.preferred not in _SWAPPED:
            raise ValueError(f"key 'preferred': {self.preferred!r} is none of '1', '2', 'tie'")
        if self.response_1 == self.response_2 and self.preferred != "tie":
            raise ValueError("key 'preferred': the two responses are identical, so neither is better; skip the pair or call it a 'tie'")

    @property
    def pair_id(self) -> str:
        """20 hexadecimal digits of the content without the label; the same for the record and its swap."""
        return _content_id("pair", self.images, self.question, *sorted((self.response_1, self.response_2)))

    record_id = pair_id

    def swap(self) -> "PairRecord":
        """The same pair with the responses, and with them the label, exchanged."""
        return replace(self, response_1=self.response_2, response_2=self.response_1, preferred=_SWAPPED[self.preferred])

    def shown(self, order: str) -> "PairRecord":
        """The pair as a model sees it in this order: response_1 is what stands first, preferred is in the shown frame."""
        if order not in ORDERS:
            raise ValueError(f"order {order!r}: give '12' (as in the record) or '21' (exchanged)")
        return self if order == "12" else self.swap()

    def to_json(self) -> dict[str, Any]:
        """A dictionary that json.dumps accepts and from_json turns back into an equal record; its first key is the pair_id."""
        return {"pair_id": self.pair_id} | _to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "PairRecord":
        """The record of such a dictionary, in which pair_id may be left out. ValueError names a missing, unknown or malformed key."""
        return _from_json(cls, data, "pair_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRecord:
    """One question about one or more images, with the answer that counts as right. Keys and errors as in PairRecord."""

    images: tuple[Image, ...]
    question: str
    answer: str
    source: str
    category: str = ""
    licence: str = ""
    group: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        _check_texts(self, required=("question", "answer", "source"))
        _check_images(self)

    @property
    def question_id(self) -> str:
        """20 hexadecimal digits of the content without the answer."""
        return _content_id("question", self.images, self.question)

    record_id = question_id

    def to_json(self) -> dict[str, Any]:
        """A dictionary that json.dumps accepts and from_json turns back into an equal record; its first key is the question_id."""
        return {"question_id": self.question_id} | _to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "QuestionRecord":
        """The record of such a dictionary, in which question_id may be left out. ValueError names a missing, unknown or malformed key."""
        return _from_json(cls, data, "question_id")


Record = PairRecord | QuestionRecord
AnyRecord = TypeVar("AnyRecord", PairRecord, QuestionRecord)


def record_from_json(data: Any) -> Record:
    """The pair or the question of a dictionary: a question has an answer, a pair has two responses. ValueError as from_json."""
    return (QuestionRecord if isinstance(data, dict) and "answer" in data else PairRecord).from_json(data)


@dataclass(frozen=True, slots=True)
class RecordFile(Generic[AnyRecord]):
    """The records of one kind in a JSONL file, in its order, read anew at each iteration, so that they need not all be held.

    The file may hold pairs and questions; only those of `cls` are given, and only those of `split` where one is named. Blank lines do not
    count. ValueError names the file, the line and the key.
    """

    path: Path
    cls: type[AnyRecord]
    split: str = ""

    def __iter__(self) -> Iterator[AnyRecord]:
        for record in read_records(self.path):
            if isinstance(record, self.cls) and self.split in ("", record.split):
                yield record


def read_records(path: str | Path) -> Iterator[Record]:
    """All records of a JSONL file, pairs and questions, in its order. ValueError names the file, the line and the key."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; prepare the data first, or correct the path")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield record_from_json(json.loads(line.decode("utf-8")))
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path}:{number}: not a record: {error}") from error


def write_jsonl(path: str | Path, records: Iterable[Record]) -> None:
    """Write one record a line, UTF-8; the same records give the same bytes, and the file appears only when it is complete."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")


def _check_texts(record: Any, required: tuple[str, ...]) -> None:
    for field in fields(record):
        if field.name == "images":
            continue
        value = getattr(record, field.name)
        if not isinstance(value, str):
            raise ValueError(f"key {field.name!r}: {value!r} is not a string")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"key {field.name!r}: holds a lone surrogate, which no UTF-8 file can; replace it") from error
        if field.name == "split" and value not in ("", *SPLITS):
            raise ValueError(f"key 'split': {value!r} is none of {', '.join(SPLITS)}")
        if field.name in required and not value.strip():
            raise ValueError(f"key {field.name!r}: is empty")


def _check_images(record: PairRecord | QuestionRecord) -> None:
    if not isinstance(record.images, tuple) or not record.images or not all(isinstance(image, Image) for image in record.images):
        raise ValueError(f"key 'images': {record.images!r} is not a non-empty tuple of Image")
    if not record.group:
        object.__setattr__(record, "group", "+".join(sorted({image.sha256 for image in record.images})))


def _content_id(kind: str, images: tuple[Image, ...], *texts: str) -> str:
    content = json.dumps([kind, [image.sha256 for image in images], *texts])
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:20]


def _to_json(record: PairRecord | QuestionRecord) -> dict[str, Any]:
    data = {field.name: getattr(record, field.name) for field in fields(record)}
    return data | {"images": [{"path": image.path, "sha256": image.sha256} for image in record.images]}


def _from_json(cls: type[AnyRecord], data: Any, id_key: str) -> AnyRecord:
    stated = data.get(id_key) if isinstance(data, dict) else None
    record = cls(**_arguments(cls, data, id_key))
    if stated is not None and stated != record.record_id:
        raise ValueError(f"key {id_key!r}: {stated!r} does not follow from the content, which gives {record.record_id!r}")
    return record


def _arguments(cls: type, data: Any, id_key: str) -> dict[str, Any]:
    """Constructor arguments from JSON data, after its keys are checked against the fields of cls."""
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key != id_key}
    _check_keys(cls, data, where="")
    images = data["images"]
    if not isinstance(images, list):
        raise ValueError(f"key 'images': {images!r} is not a list")
    for number, image in enumerate(images):
        _check_keys(Image, image, where=f"images[{number}]: ")
    return data | {"images": tuple(Image(**image) for image in images)}


def _check_keys(cls: type, data: Any, where: str) -> None:
    optional = {"category", "licence", "group", "split"}
    if not isinstance(data, dict):
        raise ValueError(f"{where}not a JSON object")
    names = [field.name for field in fields(cls)]
    if missing := [name for name in names if name not in data and name not in optional]:
        raise ValueError(f"{where}key {missing[0]!r} is missing")
    if unknown := [name for name in data if name not in names]:
        raise ValueError(f"{where}key {unknown[0]!r} is unknown; the keys are {', '.join(names)}")
